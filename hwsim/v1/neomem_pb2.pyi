from fedcosim.hwsim.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NeoMemRequest(_message.Message):
    __slots__ = ("training", "synthetic", "trace_id", "repeats", "compute_seconds", "platform", "access", "policy", "against", "profile", "scale", "seed", "warmup_accesses", "tick_ms", "neomem", "neoprof", "autonuma", "tpp", "pte_scan", "pebs", "memtis", "oracle")
    class Policy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        POLICY_UNSPECIFIED: _ClassVar[NeoMemRequest.Policy]
        POLICY_FIRST_TOUCH: _ClassVar[NeoMemRequest.Policy]
        POLICY_AUTONUMA: _ClassVar[NeoMemRequest.Policy]
        POLICY_TPP: _ClassVar[NeoMemRequest.Policy]
        POLICY_PTE_SCAN: _ClassVar[NeoMemRequest.Policy]
        POLICY_PEBS: _ClassVar[NeoMemRequest.Policy]
        POLICY_MEMTIS: _ClassVar[NeoMemRequest.Policy]
        POLICY_NEOMEM: _ClassVar[NeoMemRequest.Policy]
        POLICY_ORACLE_STATIC: _ClassVar[NeoMemRequest.Policy]
        POLICY_ORACLE_EPOCH: _ClassVar[NeoMemRequest.Policy]
        POLICY_ORACLE_FREE: _ClassVar[NeoMemRequest.Policy]
        POLICY_ALL_FAST: _ClassVar[NeoMemRequest.Policy]
        POLICY_ALL_SLOW: _ClassVar[NeoMemRequest.Policy]
    POLICY_UNSPECIFIED: NeoMemRequest.Policy
    POLICY_FIRST_TOUCH: NeoMemRequest.Policy
    POLICY_AUTONUMA: NeoMemRequest.Policy
    POLICY_TPP: NeoMemRequest.Policy
    POLICY_PTE_SCAN: NeoMemRequest.Policy
    POLICY_PEBS: NeoMemRequest.Policy
    POLICY_MEMTIS: NeoMemRequest.Policy
    POLICY_NEOMEM: NeoMemRequest.Policy
    POLICY_ORACLE_STATIC: NeoMemRequest.Policy
    POLICY_ORACLE_EPOCH: NeoMemRequest.Policy
    POLICY_ORACLE_FREE: NeoMemRequest.Policy
    POLICY_ALL_FAST: NeoMemRequest.Policy
    POLICY_ALL_SLOW: NeoMemRequest.Policy
    class Against(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        AGAINST_UNSPECIFIED: _ClassVar[NeoMemRequest.Against]
        AGAINST_FIRST_TOUCH: _ClassVar[NeoMemRequest.Against]
        AGAINST_AUTONUMA: _ClassVar[NeoMemRequest.Against]
        AGAINST_TPP: _ClassVar[NeoMemRequest.Against]
        AGAINST_PTE_SCAN: _ClassVar[NeoMemRequest.Against]
        AGAINST_PEBS: _ClassVar[NeoMemRequest.Against]
        AGAINST_MEMTIS: _ClassVar[NeoMemRequest.Against]
        AGAINST_NEOMEM: _ClassVar[NeoMemRequest.Against]
        AGAINST_ORACLE_STATIC: _ClassVar[NeoMemRequest.Against]
        AGAINST_ORACLE_EPOCH: _ClassVar[NeoMemRequest.Against]
        AGAINST_ORACLE_FREE: _ClassVar[NeoMemRequest.Against]
        AGAINST_ALL_FAST: _ClassVar[NeoMemRequest.Against]
        AGAINST_ALL_SLOW: _ClassVar[NeoMemRequest.Against]
    AGAINST_UNSPECIFIED: NeoMemRequest.Against
    AGAINST_FIRST_TOUCH: NeoMemRequest.Against
    AGAINST_AUTONUMA: NeoMemRequest.Against
    AGAINST_TPP: NeoMemRequest.Against
    AGAINST_PTE_SCAN: NeoMemRequest.Against
    AGAINST_PEBS: NeoMemRequest.Against
    AGAINST_MEMTIS: NeoMemRequest.Against
    AGAINST_NEOMEM: NeoMemRequest.Against
    AGAINST_ORACLE_STATIC: NeoMemRequest.Against
    AGAINST_ORACLE_EPOCH: NeoMemRequest.Against
    AGAINST_ORACLE_FREE: NeoMemRequest.Against
    AGAINST_ALL_FAST: NeoMemRequest.Against
    AGAINST_ALL_SLOW: NeoMemRequest.Against
    class Profile(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PROFILE_UNSPECIFIED: _ClassVar[NeoMemRequest.Profile]
        PROFILE_PAPER: _ClassVar[NeoMemRequest.Profile]
        PROFILE_ARTIFACT: _ClassVar[NeoMemRequest.Profile]
    PROFILE_UNSPECIFIED: NeoMemRequest.Profile
    PROFILE_PAPER: NeoMemRequest.Profile
    PROFILE_ARTIFACT: NeoMemRequest.Profile
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    SYNTHETIC_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    REPEATS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    AGAINST_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    WARMUP_ACCESSES_FIELD_NUMBER: _ClassVar[int]
    TICK_MS_FIELD_NUMBER: _ClassVar[int]
    NEOMEM_FIELD_NUMBER: _ClassVar[int]
    NEOPROF_FIELD_NUMBER: _ClassVar[int]
    AUTONUMA_FIELD_NUMBER: _ClassVar[int]
    TPP_FIELD_NUMBER: _ClassVar[int]
    PTE_SCAN_FIELD_NUMBER: _ClassVar[int]
    PEBS_FIELD_NUMBER: _ClassVar[int]
    MEMTIS_FIELD_NUMBER: _ClassVar[int]
    ORACLE_FIELD_NUMBER: _ClassVar[int]
    training: TrainingOptions
    synthetic: SyntheticOptions
    trace_id: str
    repeats: int
    compute_seconds: float
    platform: PlatformOptions
    access: AccessOptions
    policy: NeoMemRequest.Policy
    against: _containers.RepeatedScalarFieldContainer[NeoMemRequest.Against]
    profile: NeoMemRequest.Profile
    scale: int
    seed: int
    warmup_accesses: int
    tick_ms: float
    neomem: DaemonOptions
    neoprof: NeoProfOptions
    autonuma: AutoNumaOptions
    tpp: TppOptions
    pte_scan: PteScanOptions
    pebs: PebsOptions
    memtis: MemtisOptions
    oracle: OracleOptions
    def __init__(self, training: _Optional[_Union[TrainingOptions, _Mapping]] = ..., synthetic: _Optional[_Union[SyntheticOptions, _Mapping]] = ..., trace_id: _Optional[str] = ..., repeats: _Optional[int] = ..., compute_seconds: _Optional[float] = ..., platform: _Optional[_Union[PlatformOptions, _Mapping]] = ..., access: _Optional[_Union[AccessOptions, _Mapping]] = ..., policy: _Optional[_Union[NeoMemRequest.Policy, str]] = ..., against: _Optional[_Iterable[_Union[NeoMemRequest.Against, str]]] = ..., profile: _Optional[_Union[NeoMemRequest.Profile, str]] = ..., scale: _Optional[int] = ..., seed: _Optional[int] = ..., warmup_accesses: _Optional[int] = ..., tick_ms: _Optional[float] = ..., neomem: _Optional[_Union[DaemonOptions, _Mapping]] = ..., neoprof: _Optional[_Union[NeoProfOptions, _Mapping]] = ..., autonuma: _Optional[_Union[AutoNumaOptions, _Mapping]] = ..., tpp: _Optional[_Union[TppOptions, _Mapping]] = ..., pte_scan: _Optional[_Union[PteScanOptions, _Mapping]] = ..., pebs: _Optional[_Union[PebsOptions, _Mapping]] = ..., memtis: _Optional[_Union[MemtisOptions, _Mapping]] = ..., oracle: _Optional[_Union[OracleOptions, _Mapping]] = ...) -> None: ...

class TrainingOptions(_message.Message):
    __slots__ = ("param_count", "bytes_per_param", "optimizer", "activation_bytes_per_sample", "batch", "steps", "layers", "dataset_bytes", "sample_bytes", "compute_seconds_per_step")
    class Optimizer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OPTIMIZER_UNSPECIFIED: _ClassVar[TrainingOptions.Optimizer]
        OPTIMIZER_SGD: _ClassVar[TrainingOptions.Optimizer]
        OPTIMIZER_MOMENTUM: _ClassVar[TrainingOptions.Optimizer]
        OPTIMIZER_ADAM: _ClassVar[TrainingOptions.Optimizer]
    OPTIMIZER_UNSPECIFIED: TrainingOptions.Optimizer
    OPTIMIZER_SGD: TrainingOptions.Optimizer
    OPTIMIZER_MOMENTUM: TrainingOptions.Optimizer
    OPTIMIZER_ADAM: TrainingOptions.Optimizer
    PARAM_COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_PARAM_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_BYTES_PER_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    DATASET_BYTES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_PER_STEP_FIELD_NUMBER: _ClassVar[int]
    param_count: int
    bytes_per_param: int
    optimizer: TrainingOptions.Optimizer
    activation_bytes_per_sample: int
    batch: int
    steps: int
    layers: int
    dataset_bytes: int
    sample_bytes: int
    compute_seconds_per_step: float
    def __init__(self, param_count: _Optional[int] = ..., bytes_per_param: _Optional[int] = ..., optimizer: _Optional[_Union[TrainingOptions.Optimizer, str]] = ..., activation_bytes_per_sample: _Optional[int] = ..., batch: _Optional[int] = ..., steps: _Optional[int] = ..., layers: _Optional[int] = ..., dataset_bytes: _Optional[int] = ..., sample_bytes: _Optional[int] = ..., compute_seconds_per_step: _Optional[float] = ...) -> None: ...

class SyntheticOptions(_message.Message):
    __slots__ = ("generator", "pages", "accesses", "write_fraction", "gups", "zipf", "pointer_chase", "scan", "dlrm", "search", "gather", "phase_shift", "adversary")
    class Generator(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        GENERATOR_UNSPECIFIED: _ClassVar[SyntheticOptions.Generator]
        GENERATOR_GUPS: _ClassVar[SyntheticOptions.Generator]
        GENERATOR_ZIPF: _ClassVar[SyntheticOptions.Generator]
        GENERATOR_POINTER_CHASE: _ClassVar[SyntheticOptions.Generator]
        GENERATOR_SCAN: _ClassVar[SyntheticOptions.Generator]
        GENERATOR_DLRM: _ClassVar[SyntheticOptions.Generator]
        GENERATOR_SEARCH: _ClassVar[SyntheticOptions.Generator]
        GENERATOR_GATHER: _ClassVar[SyntheticOptions.Generator]
        GENERATOR_PHASE_SHIFT: _ClassVar[SyntheticOptions.Generator]
        GENERATOR_ADVERSARY: _ClassVar[SyntheticOptions.Generator]
    GENERATOR_UNSPECIFIED: SyntheticOptions.Generator
    GENERATOR_GUPS: SyntheticOptions.Generator
    GENERATOR_ZIPF: SyntheticOptions.Generator
    GENERATOR_POINTER_CHASE: SyntheticOptions.Generator
    GENERATOR_SCAN: SyntheticOptions.Generator
    GENERATOR_DLRM: SyntheticOptions.Generator
    GENERATOR_SEARCH: SyntheticOptions.Generator
    GENERATOR_GATHER: SyntheticOptions.Generator
    GENERATOR_PHASE_SHIFT: SyntheticOptions.Generator
    GENERATOR_ADVERSARY: SyntheticOptions.Generator
    GENERATOR_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    ACCESSES_FIELD_NUMBER: _ClassVar[int]
    WRITE_FRACTION_FIELD_NUMBER: _ClassVar[int]
    GUPS_FIELD_NUMBER: _ClassVar[int]
    ZIPF_FIELD_NUMBER: _ClassVar[int]
    POINTER_CHASE_FIELD_NUMBER: _ClassVar[int]
    SCAN_FIELD_NUMBER: _ClassVar[int]
    DLRM_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    GATHER_FIELD_NUMBER: _ClassVar[int]
    PHASE_SHIFT_FIELD_NUMBER: _ClassVar[int]
    ADVERSARY_FIELD_NUMBER: _ClassVar[int]
    generator: SyntheticOptions.Generator
    pages: int
    accesses: int
    write_fraction: float
    gups: GupsOptions
    zipf: ZipfOptions
    pointer_chase: ChaseOptions
    scan: ScanOptions
    dlrm: DlrmOptions
    search: SearchOptions
    gather: GatherOptions
    phase_shift: PhaseShiftOptions
    adversary: AdversaryOptions
    def __init__(self, generator: _Optional[_Union[SyntheticOptions.Generator, str]] = ..., pages: _Optional[int] = ..., accesses: _Optional[int] = ..., write_fraction: _Optional[float] = ..., gups: _Optional[_Union[GupsOptions, _Mapping]] = ..., zipf: _Optional[_Union[ZipfOptions, _Mapping]] = ..., pointer_chase: _Optional[_Union[ChaseOptions, _Mapping]] = ..., scan: _Optional[_Union[ScanOptions, _Mapping]] = ..., dlrm: _Optional[_Union[DlrmOptions, _Mapping]] = ..., search: _Optional[_Union[SearchOptions, _Mapping]] = ..., gather: _Optional[_Union[GatherOptions, _Mapping]] = ..., phase_shift: _Optional[_Union[PhaseShiftOptions, _Mapping]] = ..., adversary: _Optional[_Union[AdversaryOptions, _Mapping]] = ...) -> None: ...

class GupsOptions(_message.Message):
    __slots__ = ("hot_share", "hot_probability", "hot_start", "phases")
    HOT_SHARE_FIELD_NUMBER: _ClassVar[int]
    HOT_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    HOT_START_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    hot_share: float
    hot_probability: float
    hot_start: float
    phases: int
    def __init__(self, hot_share: _Optional[float] = ..., hot_probability: _Optional[float] = ..., hot_start: _Optional[float] = ..., phases: _Optional[int] = ...) -> None: ...

class ZipfOptions(_message.Message):
    __slots__ = ("alpha", "layout", "phases")
    class Layout(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        LAYOUT_UNSPECIFIED: _ClassVar[ZipfOptions.Layout]
        LAYOUT_SCATTERED: _ClassVar[ZipfOptions.Layout]
        LAYOUT_CONTIGUOUS: _ClassVar[ZipfOptions.Layout]
    LAYOUT_UNSPECIFIED: ZipfOptions.Layout
    LAYOUT_SCATTERED: ZipfOptions.Layout
    LAYOUT_CONTIGUOUS: ZipfOptions.Layout
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    alpha: float
    layout: ZipfOptions.Layout
    phases: int
    def __init__(self, alpha: _Optional[float] = ..., layout: _Optional[_Union[ZipfOptions.Layout, str]] = ..., phases: _Optional[int] = ...) -> None: ...

class ChaseOptions(_message.Message):
    __slots__ = ("hot_share", "hot_probability")
    HOT_SHARE_FIELD_NUMBER: _ClassVar[int]
    HOT_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    hot_share: float
    hot_probability: float
    def __init__(self, hot_share: _Optional[float] = ..., hot_probability: _Optional[float] = ...) -> None: ...

class ScanOptions(_message.Message):
    __slots__ = ("stride",)
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    stride: int
    def __init__(self, stride: _Optional[int] = ...) -> None: ...

class DlrmOptions(_message.Message):
    __slots__ = ("tables", "pooling", "alpha", "rows_per_page", "model_share", "model_accesses")
    TABLES_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_PAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHARE_FIELD_NUMBER: _ClassVar[int]
    MODEL_ACCESSES_FIELD_NUMBER: _ClassVar[int]
    tables: int
    pooling: int
    alpha: float
    rows_per_page: int
    model_share: float
    model_accesses: int
    def __init__(self, tables: _Optional[int] = ..., pooling: _Optional[int] = ..., alpha: _Optional[float] = ..., rows_per_page: _Optional[int] = ..., model_share: _Optional[float] = ..., model_accesses: _Optional[int] = ...) -> None: ...

class SearchOptions(_message.Message):
    __slots__ = ("grid_share", "gathers")
    GRID_SHARE_FIELD_NUMBER: _ClassVar[int]
    GATHERS_FIELD_NUMBER: _ClassVar[int]
    grid_share: float
    gathers: int
    def __init__(self, grid_share: _Optional[float] = ..., gathers: _Optional[int] = ...) -> None: ...

class GatherOptions(_message.Message):
    __slots__ = ("alpha", "vertex_share", "vertices_per_page", "edges_per_access")
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    VERTEX_SHARE_FIELD_NUMBER: _ClassVar[int]
    VERTICES_PER_PAGE_FIELD_NUMBER: _ClassVar[int]
    EDGES_PER_ACCESS_FIELD_NUMBER: _ClassVar[int]
    alpha: float
    vertex_share: float
    vertices_per_page: int
    edges_per_access: int
    def __init__(self, alpha: _Optional[float] = ..., vertex_share: _Optional[float] = ..., vertices_per_page: _Optional[int] = ..., edges_per_access: _Optional[int] = ...) -> None: ...

class PhaseShiftOptions(_message.Message):
    __slots__ = ("generators",)
    class Generators(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        GENERATORS_UNSPECIFIED: _ClassVar[PhaseShiftOptions.Generators]
        GENERATORS_GUPS: _ClassVar[PhaseShiftOptions.Generators]
        GENERATORS_ZIPF: _ClassVar[PhaseShiftOptions.Generators]
        GENERATORS_POINTER_CHASE: _ClassVar[PhaseShiftOptions.Generators]
        GENERATORS_SCAN: _ClassVar[PhaseShiftOptions.Generators]
    GENERATORS_UNSPECIFIED: PhaseShiftOptions.Generators
    GENERATORS_GUPS: PhaseShiftOptions.Generators
    GENERATORS_ZIPF: PhaseShiftOptions.Generators
    GENERATORS_POINTER_CHASE: PhaseShiftOptions.Generators
    GENERATORS_SCAN: PhaseShiftOptions.Generators
    GENERATORS_FIELD_NUMBER: _ClassVar[int]
    generators: _containers.RepeatedScalarFieldContainer[PhaseShiftOptions.Generators]
    def __init__(self, generators: _Optional[_Iterable[_Union[PhaseShiftOptions.Generators, str]]] = ...) -> None: ...

class AdversaryOptions(_message.Message):
    __slots__ = ("set_share", "phases")
    SET_SHARE_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    set_share: float
    phases: int
    def __init__(self, set_share: _Optional[float] = ..., phases: _Optional[int] = ...) -> None: ...

class PlatformOptions(_message.Message):
    __slots__ = ("preset", "fast_latency_ns", "slow_latency_ns", "fast_bytes_per_s", "slow_bytes_per_s", "fast_bytes", "fast_to_slow", "slow_bytes", "page_bytes", "threads")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    FAST_LATENCY_NS_FIELD_NUMBER: _ClassVar[int]
    SLOW_LATENCY_NS_FIELD_NUMBER: _ClassVar[int]
    FAST_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    SLOW_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    FAST_BYTES_FIELD_NUMBER: _ClassVar[int]
    FAST_TO_SLOW_FIELD_NUMBER: _ClassVar[int]
    SLOW_BYTES_FIELD_NUMBER: _ClassVar[int]
    PAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    preset: str
    fast_latency_ns: float
    slow_latency_ns: float
    fast_bytes_per_s: float
    slow_bytes_per_s: float
    fast_bytes: int
    fast_to_slow: float
    slow_bytes: int
    page_bytes: int
    threads: int
    def __init__(self, preset: _Optional[str] = ..., fast_latency_ns: _Optional[float] = ..., slow_latency_ns: _Optional[float] = ..., fast_bytes_per_s: _Optional[float] = ..., slow_bytes_per_s: _Optional[float] = ..., fast_bytes: _Optional[int] = ..., fast_to_slow: _Optional[float] = ..., slow_bytes: _Optional[int] = ..., page_bytes: _Optional[int] = ..., threads: _Optional[int] = ...) -> None: ...

class AccessOptions(_message.Message):
    __slots__ = ("c0_ns", "k", "overlap")
    C0_NS_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    c0_ns: float
    k: float
    overlap: float
    def __init__(self, c0_ns: _Optional[float] = ..., k: _Optional[float] = ..., overlap: _Optional[float] = ...) -> None: ...

class DaemonOptions(_message.Message):
    __slots__ = ("interval_ms", "clear_period_s", "histogram_period_s", "threshold_period_s", "theta0", "threshold", "p_init", "p_min", "p_max", "alpha", "beta", "quota_bytes_per_s")
    class Threshold(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        THRESHOLD_UNSPECIFIED: _ClassVar[DaemonOptions.Threshold]
        THRESHOLD_DYNAMIC: _ClassVar[DaemonOptions.Threshold]
        THRESHOLD_FIXED: _ClassVar[DaemonOptions.Threshold]
    THRESHOLD_UNSPECIFIED: DaemonOptions.Threshold
    THRESHOLD_DYNAMIC: DaemonOptions.Threshold
    THRESHOLD_FIXED: DaemonOptions.Threshold
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    CLEAR_PERIOD_S_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAM_PERIOD_S_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_PERIOD_S_FIELD_NUMBER: _ClassVar[int]
    THETA0_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    P_INIT_FIELD_NUMBER: _ClassVar[int]
    P_MIN_FIELD_NUMBER: _ClassVar[int]
    P_MAX_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    QUOTA_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    interval_ms: float
    clear_period_s: float
    histogram_period_s: float
    threshold_period_s: float
    theta0: int
    threshold: DaemonOptions.Threshold
    p_init: float
    p_min: float
    p_max: float
    alpha: float
    beta: float
    quota_bytes_per_s: float
    def __init__(self, interval_ms: _Optional[float] = ..., clear_period_s: _Optional[float] = ..., histogram_period_s: _Optional[float] = ..., threshold_period_s: _Optional[float] = ..., theta0: _Optional[int] = ..., threshold: _Optional[_Union[DaemonOptions.Threshold, str]] = ..., p_init: _Optional[float] = ..., p_min: _Optional[float] = ..., p_max: _Optional[float] = ..., alpha: _Optional[float] = ..., beta: _Optional[float] = ..., quota_bytes_per_s: _Optional[float] = ...) -> None: ...

class NeoProfOptions(_message.Message):
    __slots__ = ("rows", "columns", "counter_bits", "overflow", "fifo_entries", "dedup", "count_writes", "page_sample_interval", "state_interval", "hash_seed")
    class Overflow(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OVERFLOW_UNSPECIFIED: _ClassVar[NeoProfOptions.Overflow]
        OVERFLOW_SATURATE: _ClassVar[NeoProfOptions.Overflow]
        OVERFLOW_WRAP: _ClassVar[NeoProfOptions.Overflow]
    OVERFLOW_UNSPECIFIED: NeoProfOptions.Overflow
    OVERFLOW_SATURATE: NeoProfOptions.Overflow
    OVERFLOW_WRAP: NeoProfOptions.Overflow
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    COUNTER_BITS_FIELD_NUMBER: _ClassVar[int]
    OVERFLOW_FIELD_NUMBER: _ClassVar[int]
    FIFO_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    DEDUP_FIELD_NUMBER: _ClassVar[int]
    COUNT_WRITES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SAMPLE_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    STATE_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    HASH_SEED_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    counter_bits: int
    overflow: NeoProfOptions.Overflow
    fifo_entries: int
    dedup: bool
    count_writes: bool
    page_sample_interval: int
    state_interval: int
    hash_seed: int
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ..., counter_bits: _Optional[int] = ..., overflow: _Optional[_Union[NeoProfOptions.Overflow, str]] = ..., fifo_entries: _Optional[int] = ..., dedup: _Optional[bool] = ..., count_writes: _Optional[bool] = ..., page_sample_interval: _Optional[int] = ..., state_interval: _Optional[int] = ..., hash_seed: _Optional[int] = ...) -> None: ...

class AutoNumaOptions(_message.Message):
    __slots__ = ("scan_delay_ms", "scan_bytes", "scan_period_min_ms", "scan_period_max_ms", "hot_threshold_ms", "rate_limit_bytes_per_s")
    SCAN_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    SCAN_BYTES_FIELD_NUMBER: _ClassVar[int]
    SCAN_PERIOD_MIN_MS_FIELD_NUMBER: _ClassVar[int]
    SCAN_PERIOD_MAX_MS_FIELD_NUMBER: _ClassVar[int]
    HOT_THRESHOLD_MS_FIELD_NUMBER: _ClassVar[int]
    RATE_LIMIT_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    scan_delay_ms: float
    scan_bytes: float
    scan_period_min_ms: float
    scan_period_max_ms: float
    hot_threshold_ms: float
    rate_limit_bytes_per_s: float
    def __init__(self, scan_delay_ms: _Optional[float] = ..., scan_bytes: _Optional[float] = ..., scan_period_min_ms: _Optional[float] = ..., scan_period_max_ms: _Optional[float] = ..., hot_threshold_ms: _Optional[float] = ..., rate_limit_bytes_per_s: _Optional[float] = ...) -> None: ...

class TppOptions(_message.Message):
    __slots__ = ("scan_delay_ms", "scan_bytes", "scan_period_min_ms", "scan_period_max_ms", "headroom_share")
    SCAN_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    SCAN_BYTES_FIELD_NUMBER: _ClassVar[int]
    SCAN_PERIOD_MIN_MS_FIELD_NUMBER: _ClassVar[int]
    SCAN_PERIOD_MAX_MS_FIELD_NUMBER: _ClassVar[int]
    HEADROOM_SHARE_FIELD_NUMBER: _ClassVar[int]
    scan_delay_ms: float
    scan_bytes: float
    scan_period_min_ms: float
    scan_period_max_ms: float
    headroom_share: float
    def __init__(self, scan_delay_ms: _Optional[float] = ..., scan_bytes: _Optional[float] = ..., scan_period_min_ms: _Optional[float] = ..., scan_period_max_ms: _Optional[float] = ..., headroom_share: _Optional[float] = ...) -> None: ...

class PteScanOptions(_message.Message):
    __slots__ = ("period_s", "quota_bytes_per_s")
    PERIOD_S_FIELD_NUMBER: _ClassVar[int]
    QUOTA_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    period_s: float
    quota_bytes_per_s: float
    def __init__(self, period_s: _Optional[float] = ..., quota_bytes_per_s: _Optional[float] = ...) -> None: ...

class PebsOptions(_message.Message):
    __slots__ = ("period", "monitored_threads", "samples_per_s")
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    MONITORED_THREADS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_PER_S_FIELD_NUMBER: _ClassVar[int]
    period: int
    monitored_threads: int
    samples_per_s: float
    def __init__(self, period: _Optional[int] = ..., monitored_threads: _Optional[int] = ..., samples_per_s: _Optional[float] = ...) -> None: ...

class MemtisOptions(_message.Message):
    __slots__ = ("period", "cooling_samples", "adaptation_samples", "migration_period_ms", "migration_bytes_per_s", "cpu_share")
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    COOLING_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    ADAPTATION_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MIGRATION_PERIOD_MS_FIELD_NUMBER: _ClassVar[int]
    MIGRATION_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    CPU_SHARE_FIELD_NUMBER: _ClassVar[int]
    period: int
    cooling_samples: int
    adaptation_samples: int
    migration_period_ms: float
    migration_bytes_per_s: float
    cpu_share: float
    def __init__(self, period: _Optional[int] = ..., cooling_samples: _Optional[int] = ..., adaptation_samples: _Optional[int] = ..., migration_period_ms: _Optional[float] = ..., migration_bytes_per_s: _Optional[float] = ..., cpu_share: _Optional[float] = ...) -> None: ...

class OracleOptions(_message.Message):
    __slots__ = ("epoch_accesses",)
    EPOCH_ACCESSES_FIELD_NUMBER: _ClassVar[int]
    epoch_accesses: int
    def __init__(self, epoch_accesses: _Optional[int] = ...) -> None: ...

class NeoMemReport(_message.Message):
    __slots__ = ("policy", "accesses", "sim_s", "accesses_per_s", "latency_ns_mean", "latency_ns_p50", "latency_ns_p99", "fast_hit_ratio", "fast_hit_ratio_reads", "fast_hit_ratio_writes", "slowdown_vs_all_fast", "speedup", "promoted_pages", "demoted_pages", "ping_pong_pages", "failed_pages", "migrated_bytes_per_s", "footprint_pages", "fast_pages", "cost_breakdown", "sketch", "energy_low_j", "energy_high_j", "series", "provenance", "warnings")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ACCESSES_FIELD_NUMBER: _ClassVar[int]
    SIM_S_FIELD_NUMBER: _ClassVar[int]
    ACCESSES_PER_S_FIELD_NUMBER: _ClassVar[int]
    LATENCY_NS_MEAN_FIELD_NUMBER: _ClassVar[int]
    LATENCY_NS_P50_FIELD_NUMBER: _ClassVar[int]
    LATENCY_NS_P99_FIELD_NUMBER: _ClassVar[int]
    FAST_HIT_RATIO_FIELD_NUMBER: _ClassVar[int]
    FAST_HIT_RATIO_READS_FIELD_NUMBER: _ClassVar[int]
    FAST_HIT_RATIO_WRITES_FIELD_NUMBER: _ClassVar[int]
    SLOWDOWN_VS_ALL_FAST_FIELD_NUMBER: _ClassVar[int]
    SPEEDUP_FIELD_NUMBER: _ClassVar[int]
    PROMOTED_PAGES_FIELD_NUMBER: _ClassVar[int]
    DEMOTED_PAGES_FIELD_NUMBER: _ClassVar[int]
    PING_PONG_PAGES_FIELD_NUMBER: _ClassVar[int]
    FAILED_PAGES_FIELD_NUMBER: _ClassVar[int]
    MIGRATED_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    FOOTPRINT_PAGES_FIELD_NUMBER: _ClassVar[int]
    FAST_PAGES_FIELD_NUMBER: _ClassVar[int]
    COST_BREAKDOWN_FIELD_NUMBER: _ClassVar[int]
    SKETCH_FIELD_NUMBER: _ClassVar[int]
    ENERGY_LOW_J_FIELD_NUMBER: _ClassVar[int]
    ENERGY_HIGH_J_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    policy: str
    accesses: int
    sim_s: float
    accesses_per_s: float
    latency_ns_mean: float
    latency_ns_p50: float
    latency_ns_p99: float
    fast_hit_ratio: float
    fast_hit_ratio_reads: float
    fast_hit_ratio_writes: float
    slowdown_vs_all_fast: float
    speedup: PolicyFactors
    promoted_pages: int
    demoted_pages: int
    ping_pong_pages: int
    failed_pages: int
    migrated_bytes_per_s: float
    footprint_pages: int
    fast_pages: int
    cost_breakdown: CostBreakdown
    sketch: SketchReport
    energy_low_j: float
    energy_high_j: float
    series: Series
    provenance: Provenance
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, policy: _Optional[str] = ..., accesses: _Optional[int] = ..., sim_s: _Optional[float] = ..., accesses_per_s: _Optional[float] = ..., latency_ns_mean: _Optional[float] = ..., latency_ns_p50: _Optional[float] = ..., latency_ns_p99: _Optional[float] = ..., fast_hit_ratio: _Optional[float] = ..., fast_hit_ratio_reads: _Optional[float] = ..., fast_hit_ratio_writes: _Optional[float] = ..., slowdown_vs_all_fast: _Optional[float] = ..., speedup: _Optional[_Union[PolicyFactors, _Mapping]] = ..., promoted_pages: _Optional[int] = ..., demoted_pages: _Optional[int] = ..., ping_pong_pages: _Optional[int] = ..., failed_pages: _Optional[int] = ..., migrated_bytes_per_s: _Optional[float] = ..., footprint_pages: _Optional[int] = ..., fast_pages: _Optional[int] = ..., cost_breakdown: _Optional[_Union[CostBreakdown, _Mapping]] = ..., sketch: _Optional[_Union[SketchReport, _Mapping]] = ..., energy_low_j: _Optional[float] = ..., energy_high_j: _Optional[float] = ..., series: _Optional[_Union[Series, _Mapping]] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class PolicyFactors(_message.Message):
    __slots__ = ("first_touch", "autonuma", "tpp", "pte_scan", "pebs", "memtis", "neomem", "oracle_static", "oracle_epoch", "oracle_free", "all_fast", "all_slow")
    FIRST_TOUCH_FIELD_NUMBER: _ClassVar[int]
    AUTONUMA_FIELD_NUMBER: _ClassVar[int]
    TPP_FIELD_NUMBER: _ClassVar[int]
    PTE_SCAN_FIELD_NUMBER: _ClassVar[int]
    PEBS_FIELD_NUMBER: _ClassVar[int]
    MEMTIS_FIELD_NUMBER: _ClassVar[int]
    NEOMEM_FIELD_NUMBER: _ClassVar[int]
    ORACLE_STATIC_FIELD_NUMBER: _ClassVar[int]
    ORACLE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    ORACLE_FREE_FIELD_NUMBER: _ClassVar[int]
    ALL_FAST_FIELD_NUMBER: _ClassVar[int]
    ALL_SLOW_FIELD_NUMBER: _ClassVar[int]
    first_touch: float
    autonuma: float
    tpp: float
    pte_scan: float
    pebs: float
    memtis: float
    neomem: float
    oracle_static: float
    oracle_epoch: float
    oracle_free: float
    all_fast: float
    all_slow: float
    def __init__(self, first_touch: _Optional[float] = ..., autonuma: _Optional[float] = ..., tpp: _Optional[float] = ..., pte_scan: _Optional[float] = ..., pebs: _Optional[float] = ..., memtis: _Optional[float] = ..., neomem: _Optional[float] = ..., oracle_static: _Optional[float] = ..., oracle_epoch: _Optional[float] = ..., oracle_free: _Optional[float] = ..., all_fast: _Optional[float] = ..., all_slow: _Optional[float] = ...) -> None: ...

class CostBreakdown(_message.Message):
    __slots__ = ("access_s", "contention_s", "fault_s", "sample_s", "scan_s", "migrate_s", "shootdown_s", "mmio_s")
    ACCESS_S_FIELD_NUMBER: _ClassVar[int]
    CONTENTION_S_FIELD_NUMBER: _ClassVar[int]
    FAULT_S_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_S_FIELD_NUMBER: _ClassVar[int]
    SCAN_S_FIELD_NUMBER: _ClassVar[int]
    MIGRATE_S_FIELD_NUMBER: _ClassVar[int]
    SHOOTDOWN_S_FIELD_NUMBER: _ClassVar[int]
    MMIO_S_FIELD_NUMBER: _ClassVar[int]
    access_s: float
    contention_s: float
    fault_s: float
    sample_s: float
    scan_s: float
    migrate_s: float
    shootdown_s: float
    mmio_s: float
    def __init__(self, access_s: _Optional[float] = ..., contention_s: _Optional[float] = ..., fault_s: _Optional[float] = ..., sample_s: _Optional[float] = ..., scan_s: _Optional[float] = ..., migrate_s: _Optional[float] = ..., shootdown_s: _Optional[float] = ..., mmio_s: _Optional[float] = ...) -> None: ...

class SketchReport(_message.Message):
    __slots__ = ("counted", "duplicates", "fifo_dropped", "updates", "error_bound_median", "error_bound_max")
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    FIFO_DROPPED_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    ERROR_BOUND_MEDIAN_FIELD_NUMBER: _ClassVar[int]
    ERROR_BOUND_MAX_FIELD_NUMBER: _ClassVar[int]
    counted: int
    duplicates: int
    fifo_dropped: int
    updates: int
    error_bound_median: float
    error_bound_max: int
    def __init__(self, counted: _Optional[int] = ..., duplicates: _Optional[int] = ..., fifo_dropped: _Optional[int] = ..., updates: _Optional[int] = ..., error_bound_median: _Optional[float] = ..., error_bound_max: _Optional[int] = ...) -> None: ...

class Series(_message.Message):
    __slots__ = ("time_s", "accesses_per_s", "fast_hit_ratio", "theta", "p")
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    ACCESSES_PER_S_FIELD_NUMBER: _ClassVar[int]
    FAST_HIT_RATIO_FIELD_NUMBER: _ClassVar[int]
    THETA_FIELD_NUMBER: _ClassVar[int]
    P_FIELD_NUMBER: _ClassVar[int]
    time_s: _containers.RepeatedScalarFieldContainer[float]
    accesses_per_s: _containers.RepeatedScalarFieldContainer[float]
    fast_hit_ratio: _containers.RepeatedScalarFieldContainer[float]
    theta: _containers.RepeatedScalarFieldContainer[float]
    p: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, time_s: _Optional[_Iterable[float]] = ..., accesses_per_s: _Optional[_Iterable[float]] = ..., fast_hit_ratio: _Optional[_Iterable[float]] = ..., theta: _Optional[_Iterable[float]] = ..., p: _Optional[_Iterable[float]] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("model_version", "constants_sha256", "request_sha256", "trace_sha256", "seed", "scale")
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONSTANTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    REQUEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    TRACE_SHA256_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    model_version: str
    constants_sha256: str
    request_sha256: str
    trace_sha256: str
    seed: int
    scale: int
    def __init__(self, model_version: _Optional[str] = ..., constants_sha256: _Optional[str] = ..., request_sha256: _Optional[str] = ..., trace_sha256: _Optional[str] = ..., seed: _Optional[int] = ..., scale: _Optional[int] = ...) -> None: ...

class NeoMemReportProgress(_message.Message):
    __slots__ = ("done", "report")
    DONE_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    done: float
    report: NeoMemReport
    def __init__(self, done: _Optional[float] = ..., report: _Optional[_Union[NeoMemReport, _Mapping]] = ...) -> None: ...
