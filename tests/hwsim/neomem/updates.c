/* Updates one byte in a pseudo-random page of a window, as often as asked: what a trace of it must show is known exactly.
   Makes the recording in updates.lackey.gz:
   gcc -O1 -o updates updates.c
   setarch -R valgrind --tool=lackey --trace-mem=yes --log-file=/dev/stdout ./updates 64 2000 | grep -v '^I' | gzip -9n */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    uint64_t pages = strtoull(argv[1], 0, 10), updates = strtoull(argv[2], 0, 10), x = 88172645463325252ull;
    uint8_t *window = aligned_alloc(4096, pages * 4096);
    printf("window %llx\n", (unsigned long long)(uintptr_t)window);
    fflush(stdout);
    while (updates--) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        window[(x % pages) * 4096]++;
    }
    return window[0];
}
