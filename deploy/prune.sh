#!/bin/sh
# Takes out of an environment what only serves to build, to install, and to test others' packages.
set -eu
rm -f "$1"/bin/uv "$1"/bin/uvx
cd "$1"/lib/python3.*/site-packages
rm -rf setuptools setuptools-* _distutils_hack distutils-precedence.pth
rm -rf torch/include torch/share/cmake torch/bin/protoc* torch/test ray/cpp ray/jars ray/tests numpy/_core/include pyarrow/include pyarrow/src
find . -name '*.a' -delete
find . -mindepth 3 -type d -name tests -prune -exec rm -rf {} +
