from fedcosim.hwsim.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RooflineRequest(_message.Message):
    __slots__ = ("device", "custom", "workload", "model", "llm", "energy_model", "precision_fallback", "most_operators")
    class EnergyModel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ENERGY_MODEL_UNSPECIFIED: _ClassVar[RooflineRequest.EnergyModel]
        ENERGY_MODEL_7NM: _ClassVar[RooflineRequest.EnergyModel]
        ENERGY_MODEL_45NM: _ClassVar[RooflineRequest.EnergyModel]
    ENERGY_MODEL_UNSPECIFIED: RooflineRequest.EnergyModel
    ENERGY_MODEL_7NM: RooflineRequest.EnergyModel
    ENERGY_MODEL_45NM: RooflineRequest.EnergyModel
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LLM_FIELD_NUMBER: _ClassVar[int]
    ENERGY_MODEL_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FALLBACK_FIELD_NUMBER: _ClassVar[int]
    MOST_OPERATORS_FIELD_NUMBER: _ClassVar[int]
    device: str
    custom: Device
    workload: Workload
    model: ModelRequest
    llm: LlmRequest
    energy_model: RooflineRequest.EnergyModel
    precision_fallback: bool
    most_operators: int
    def __init__(self, device: _Optional[str] = ..., custom: _Optional[_Union[Device, _Mapping]] = ..., workload: _Optional[_Union[Workload, _Mapping]] = ..., model: _Optional[_Union[ModelRequest, _Mapping]] = ..., llm: _Optional[_Union[LlmRequest, _Mapping]] = ..., energy_model: _Optional[_Union[RooflineRequest.EnergyModel, str]] = ..., precision_fallback: _Optional[bool] = ..., most_operators: _Optional[int] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("summary", "peak", "memory_bytes_per_s", "memory_bytes", "memory_kind", "buffer_bytes", "link_bytes_per_s", "max_power_w", "idle_power_w", "efficiency")
    class MemoryKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        MEMORY_KIND_UNSPECIFIED: _ClassVar[Device.MemoryKind]
        MEMORY_KIND_DDR: _ClassVar[Device.MemoryKind]
        MEMORY_KIND_LPDDR: _ClassVar[Device.MemoryKind]
        MEMORY_KIND_HBM2: _ClassVar[Device.MemoryKind]
        MEMORY_KIND_GDDR6: _ClassVar[Device.MemoryKind]
    MEMORY_KIND_UNSPECIFIED: Device.MemoryKind
    MEMORY_KIND_DDR: Device.MemoryKind
    MEMORY_KIND_LPDDR: Device.MemoryKind
    MEMORY_KIND_HBM2: Device.MemoryKind
    MEMORY_KIND_GDDR6: Device.MemoryKind
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    PEAK_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_KIND_FIELD_NUMBER: _ClassVar[int]
    BUFFER_BYTES_FIELD_NUMBER: _ClassVar[int]
    LINK_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    MAX_POWER_W_FIELD_NUMBER: _ClassVar[int]
    IDLE_POWER_W_FIELD_NUMBER: _ClassVar[int]
    EFFICIENCY_FIELD_NUMBER: _ClassVar[int]
    summary: str
    peak: Peak
    memory_bytes_per_s: float
    memory_bytes: int
    memory_kind: Device.MemoryKind
    buffer_bytes: int
    link_bytes_per_s: float
    max_power_w: float
    idle_power_w: float
    efficiency: Efficiency
    def __init__(self, summary: _Optional[str] = ..., peak: _Optional[_Union[Peak, _Mapping]] = ..., memory_bytes_per_s: _Optional[float] = ..., memory_bytes: _Optional[int] = ..., memory_kind: _Optional[_Union[Device.MemoryKind, str]] = ..., buffer_bytes: _Optional[int] = ..., link_bytes_per_s: _Optional[float] = ..., max_power_w: _Optional[float] = ..., idle_power_w: _Optional[float] = ..., efficiency: _Optional[_Union[Efficiency, _Mapping]] = ...) -> None: ...

class Peak(_message.Message):
    __slots__ = ("fp32", "fp16", "bf16", "int8", "int4")
    FP32_FIELD_NUMBER: _ClassVar[int]
    FP16_FIELD_NUMBER: _ClassVar[int]
    BF16_FIELD_NUMBER: _ClassVar[int]
    INT8_FIELD_NUMBER: _ClassVar[int]
    INT4_FIELD_NUMBER: _ClassVar[int]
    fp32: float
    fp16: float
    bf16: float
    int8: float
    int4: float
    def __init__(self, fp32: _Optional[float] = ..., fp16: _Optional[float] = ..., bf16: _Optional[float] = ..., int8: _Optional[float] = ..., int4: _Optional[float] = ...) -> None: ...

class Efficiency(_message.Message):
    __slots__ = ("compute", "memory", "overhead_s")
    COMPUTE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    OVERHEAD_S_FIELD_NUMBER: _ClassVar[int]
    compute: float
    memory: float
    overhead_s: float
    def __init__(self, compute: _Optional[float] = ..., memory: _Optional[float] = ..., overhead_s: _Optional[float] = ...) -> None: ...

class Workload(_message.Message):
    __slots__ = ("operators", "footprint", "precision", "uncounted")
    class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PRECISION_UNSPECIFIED: _ClassVar[Workload.Precision]
        PRECISION_FP32: _ClassVar[Workload.Precision]
        PRECISION_FP16: _ClassVar[Workload.Precision]
        PRECISION_BF16: _ClassVar[Workload.Precision]
        PRECISION_INT8: _ClassVar[Workload.Precision]
        PRECISION_INT4: _ClassVar[Workload.Precision]
    PRECISION_UNSPECIFIED: Workload.Precision
    PRECISION_FP32: Workload.Precision
    PRECISION_FP16: Workload.Precision
    PRECISION_BF16: Workload.Precision
    PRECISION_INT8: Workload.Precision
    PRECISION_INT4: Workload.Precision
    OPERATORS_FIELD_NUMBER: _ClassVar[int]
    FOOTPRINT_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    UNCOUNTED_FIELD_NUMBER: _ClassVar[int]
    operators: _containers.RepeatedCompositeFieldContainer[Operator]
    footprint: Footprint
    precision: Workload.Precision
    uncounted: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, operators: _Optional[_Iterable[_Union[Operator, _Mapping]]] = ..., footprint: _Optional[_Union[Footprint, _Mapping]] = ..., precision: _Optional[_Union[Workload.Precision, str]] = ..., uncounted: _Optional[_Iterable[str]] = ...) -> None: ...

class Operator(_message.Message):
    __slots__ = ("name", "phase", "count", "flops", "load_weight_bytes", "load_act_bytes", "store_act_bytes", "load_kv_bytes", "store_kv_bytes", "link_bytes")
    class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PHASE_UNSPECIFIED: _ClassVar[Operator.Phase]
        PHASE_INFERENCE: _ClassVar[Operator.Phase]
        PHASE_FORWARD: _ClassVar[Operator.Phase]
        PHASE_BACKWARD: _ClassVar[Operator.Phase]
        PHASE_OPTIMIZER: _ClassVar[Operator.Phase]
        PHASE_PREFILL: _ClassVar[Operator.Phase]
        PHASE_DECODE: _ClassVar[Operator.Phase]
    PHASE_UNSPECIFIED: Operator.Phase
    PHASE_INFERENCE: Operator.Phase
    PHASE_FORWARD: Operator.Phase
    PHASE_BACKWARD: Operator.Phase
    PHASE_OPTIMIZER: Operator.Phase
    PHASE_PREFILL: Operator.Phase
    PHASE_DECODE: Operator.Phase
    NAME_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FLOPS_FIELD_NUMBER: _ClassVar[int]
    LOAD_WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_ACT_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORE_ACT_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORE_KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    LINK_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    phase: Operator.Phase
    count: int
    flops: int
    load_weight_bytes: int
    load_act_bytes: int
    store_act_bytes: int
    load_kv_bytes: int
    store_kv_bytes: int
    link_bytes: int
    def __init__(self, name: _Optional[str] = ..., phase: _Optional[_Union[Operator.Phase, str]] = ..., count: _Optional[int] = ..., flops: _Optional[int] = ..., load_weight_bytes: _Optional[int] = ..., load_act_bytes: _Optional[int] = ..., store_act_bytes: _Optional[int] = ..., load_kv_bytes: _Optional[int] = ..., store_kv_bytes: _Optional[int] = ..., link_bytes: _Optional[int] = ...) -> None: ...

class Footprint(_message.Message):
    __slots__ = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes", "kv_bytes", "inputs_bytes")
    WEIGHTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    GRADIENTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_BYTES_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    INPUTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    kv_bytes: int
    inputs_bytes: int
    def __init__(self, weights_bytes: _Optional[int] = ..., gradients_bytes: _Optional[int] = ..., optimizer_bytes: _Optional[int] = ..., activations_bytes: _Optional[int] = ..., kv_bytes: _Optional[int] = ..., inputs_bytes: _Optional[int] = ...) -> None: ...

class ModelRequest(_message.Message):
    __slots__ = ("name", "batch", "train", "optimizer", "per_sample", "precision", "channels", "height", "width", "classes")
    class Optimizer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OPTIMIZER_UNSPECIFIED: _ClassVar[ModelRequest.Optimizer]
        OPTIMIZER_SGD: _ClassVar[ModelRequest.Optimizer]
        OPTIMIZER_MOMENTUM: _ClassVar[ModelRequest.Optimizer]
        OPTIMIZER_ADAM: _ClassVar[ModelRequest.Optimizer]
        OPTIMIZER_ADAMW: _ClassVar[ModelRequest.Optimizer]
    OPTIMIZER_UNSPECIFIED: ModelRequest.Optimizer
    OPTIMIZER_SGD: ModelRequest.Optimizer
    OPTIMIZER_MOMENTUM: ModelRequest.Optimizer
    OPTIMIZER_ADAM: ModelRequest.Optimizer
    OPTIMIZER_ADAMW: ModelRequest.Optimizer
    class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PRECISION_UNSPECIFIED: _ClassVar[ModelRequest.Precision]
        PRECISION_FP32: _ClassVar[ModelRequest.Precision]
        PRECISION_FP16: _ClassVar[ModelRequest.Precision]
        PRECISION_BF16: _ClassVar[ModelRequest.Precision]
        PRECISION_INT8: _ClassVar[ModelRequest.Precision]
        PRECISION_INT4: _ClassVar[ModelRequest.Precision]
    PRECISION_UNSPECIFIED: ModelRequest.Precision
    PRECISION_FP32: ModelRequest.Precision
    PRECISION_FP16: ModelRequest.Precision
    PRECISION_BF16: ModelRequest.Precision
    PRECISION_INT8: ModelRequest.Precision
    PRECISION_INT4: ModelRequest.Precision
    NAME_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    PER_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    name: str
    batch: int
    train: bool
    optimizer: ModelRequest.Optimizer
    per_sample: bool
    precision: ModelRequest.Precision
    channels: int
    height: int
    width: int
    classes: int
    def __init__(self, name: _Optional[str] = ..., batch: _Optional[int] = ..., train: _Optional[bool] = ..., optimizer: _Optional[_Union[ModelRequest.Optimizer, str]] = ..., per_sample: _Optional[bool] = ..., precision: _Optional[_Union[ModelRequest.Precision, str]] = ..., channels: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., classes: _Optional[int] = ...) -> None: ...

class LlmRequest(_message.Message):
    __slots__ = ("model", "architecture", "mode", "stage", "batch", "generated", "context", "weight_bits", "activation_bits", "kv_bits", "fused_attention", "tensor_parallel")
    class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        MODE_UNSPECIFIED: _ClassVar[LlmRequest.Mode]
        MODE_CORRECTED: _ClassVar[LlmRequest.Mode]
        MODE_VIEWER: _ClassVar[LlmRequest.Mode]
    MODE_UNSPECIFIED: LlmRequest.Mode
    MODE_CORRECTED: LlmRequest.Mode
    MODE_VIEWER: LlmRequest.Mode
    class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STAGE_UNSPECIFIED: _ClassVar[LlmRequest.Stage]
        STAGE_PREFILL: _ClassVar[LlmRequest.Stage]
        STAGE_DECODE: _ClassVar[LlmRequest.Stage]
        STAGE_GENERATE: _ClassVar[LlmRequest.Stage]
    STAGE_UNSPECIFIED: LlmRequest.Stage
    STAGE_PREFILL: LlmRequest.Stage
    STAGE_DECODE: LlmRequest.Stage
    STAGE_GENERATE: LlmRequest.Stage
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    GENERATED_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BITS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_BITS_FIELD_NUMBER: _ClassVar[int]
    KV_BITS_FIELD_NUMBER: _ClassVar[int]
    FUSED_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    TENSOR_PARALLEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    architecture: Architecture
    mode: LlmRequest.Mode
    stage: LlmRequest.Stage
    batch: int
    generated: int
    context: int
    weight_bits: int
    activation_bits: int
    kv_bits: int
    fused_attention: bool
    tensor_parallel: int
    def __init__(self, model: _Optional[str] = ..., architecture: _Optional[_Union[Architecture, _Mapping]] = ..., mode: _Optional[_Union[LlmRequest.Mode, str]] = ..., stage: _Optional[_Union[LlmRequest.Stage, str]] = ..., batch: _Optional[int] = ..., generated: _Optional[int] = ..., context: _Optional[int] = ..., weight_bits: _Optional[int] = ..., activation_bits: _Optional[int] = ..., kv_bits: _Optional[int] = ..., fused_attention: _Optional[bool] = ..., tensor_parallel: _Optional[int] = ...) -> None: ...

class Architecture(_message.Message):
    __slots__ = ("hidden_size", "layers", "heads", "kv_heads", "intermediate_size", "vocab_size", "max_positions", "position_rows", "gated", "biases", "tied", "decoder", "source")
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    KV_HEADS_FIELD_NUMBER: _ClassVar[int]
    INTERMEDIATE_SIZE_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    POSITION_ROWS_FIELD_NUMBER: _ClassVar[int]
    GATED_FIELD_NUMBER: _ClassVar[int]
    BIASES_FIELD_NUMBER: _ClassVar[int]
    TIED_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    position_rows: int
    gated: bool
    biases: bool
    tied: bool
    decoder: bool
    source: str
    def __init__(self, hidden_size: _Optional[int] = ..., layers: _Optional[int] = ..., heads: _Optional[int] = ..., kv_heads: _Optional[int] = ..., intermediate_size: _Optional[int] = ..., vocab_size: _Optional[int] = ..., max_positions: _Optional[int] = ..., position_rows: _Optional[int] = ..., gated: _Optional[bool] = ..., biases: _Optional[bool] = ..., tied: _Optional[bool] = ..., decoder: _Optional[bool] = ..., source: _Optional[str] = ...) -> None: ...

class RooflineReport(_message.Message):
    __slots__ = ("device", "precision", "time_s", "flops", "memory_bytes", "load_weight_bytes", "load_act_bytes", "store_act_bytes", "load_kv_bytes", "store_kv_bytes", "link_bytes", "intensity", "bound", "peak_flops_per_s", "memory_bytes_per_s", "memory", "energy_low_j", "energy_high_j", "energy_model", "complete", "uncounted", "operators", "operators_in_all", "warnings", "provenance")
    class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PRECISION_UNSPECIFIED: _ClassVar[RooflineReport.Precision]
        PRECISION_FP32: _ClassVar[RooflineReport.Precision]
        PRECISION_FP16: _ClassVar[RooflineReport.Precision]
        PRECISION_BF16: _ClassVar[RooflineReport.Precision]
        PRECISION_INT8: _ClassVar[RooflineReport.Precision]
        PRECISION_INT4: _ClassVar[RooflineReport.Precision]
    PRECISION_UNSPECIFIED: RooflineReport.Precision
    PRECISION_FP32: RooflineReport.Precision
    PRECISION_FP16: RooflineReport.Precision
    PRECISION_BF16: RooflineReport.Precision
    PRECISION_INT8: RooflineReport.Precision
    PRECISION_INT4: RooflineReport.Precision
    class Bound(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        BOUND_UNSPECIFIED: _ClassVar[RooflineReport.Bound]
        BOUND_COMPUTE: _ClassVar[RooflineReport.Bound]
        BOUND_MEMORY: _ClassVar[RooflineReport.Bound]
        BOUND_LINK: _ClassVar[RooflineReport.Bound]
    BOUND_UNSPECIFIED: RooflineReport.Bound
    BOUND_COMPUTE: RooflineReport.Bound
    BOUND_MEMORY: RooflineReport.Bound
    BOUND_LINK: RooflineReport.Bound
    class EnergyModel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ENERGY_MODEL_UNSPECIFIED: _ClassVar[RooflineReport.EnergyModel]
        ENERGY_MODEL_7NM: _ClassVar[RooflineReport.EnergyModel]
        ENERGY_MODEL_45NM: _ClassVar[RooflineReport.EnergyModel]
    ENERGY_MODEL_UNSPECIFIED: RooflineReport.EnergyModel
    ENERGY_MODEL_7NM: RooflineReport.EnergyModel
    ENERGY_MODEL_45NM: RooflineReport.EnergyModel
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    FLOPS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_ACT_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORE_ACT_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORE_KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    LINK_BYTES_FIELD_NUMBER: _ClassVar[int]
    INTENSITY_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    PEAK_FLOPS_PER_S_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    ENERGY_LOW_J_FIELD_NUMBER: _ClassVar[int]
    ENERGY_HIGH_J_FIELD_NUMBER: _ClassVar[int]
    ENERGY_MODEL_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    UNCOUNTED_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_IN_ALL_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    device: str
    precision: RooflineReport.Precision
    time_s: float
    flops: int
    memory_bytes: int
    load_weight_bytes: int
    load_act_bytes: int
    store_act_bytes: int
    load_kv_bytes: int
    store_kv_bytes: int
    link_bytes: int
    intensity: float
    bound: RooflineReport.Bound
    peak_flops_per_s: float
    memory_bytes_per_s: float
    memory: MemoryReport
    energy_low_j: float
    energy_high_j: float
    energy_model: RooflineReport.EnergyModel
    complete: bool
    uncounted: _containers.RepeatedScalarFieldContainer[str]
    operators: _containers.RepeatedCompositeFieldContainer[OperatorReport]
    operators_in_all: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    provenance: str
    def __init__(self, device: _Optional[str] = ..., precision: _Optional[_Union[RooflineReport.Precision, str]] = ..., time_s: _Optional[float] = ..., flops: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., load_weight_bytes: _Optional[int] = ..., load_act_bytes: _Optional[int] = ..., store_act_bytes: _Optional[int] = ..., load_kv_bytes: _Optional[int] = ..., store_kv_bytes: _Optional[int] = ..., link_bytes: _Optional[int] = ..., intensity: _Optional[float] = ..., bound: _Optional[_Union[RooflineReport.Bound, str]] = ..., peak_flops_per_s: _Optional[float] = ..., memory_bytes_per_s: _Optional[float] = ..., memory: _Optional[_Union[MemoryReport, _Mapping]] = ..., energy_low_j: _Optional[float] = ..., energy_high_j: _Optional[float] = ..., energy_model: _Optional[_Union[RooflineReport.EnergyModel, str]] = ..., complete: _Optional[bool] = ..., uncounted: _Optional[_Iterable[str]] = ..., operators: _Optional[_Iterable[_Union[OperatorReport, _Mapping]]] = ..., operators_in_all: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ..., provenance: _Optional[str] = ...) -> None: ...

class MemoryReport(_message.Message):
    __slots__ = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes", "kv_bytes", "inputs_bytes", "total_bytes", "capacity_bytes", "fits", "deficit_bytes")
    WEIGHTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    GRADIENTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_BYTES_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    INPUTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    FITS_FIELD_NUMBER: _ClassVar[int]
    DEFICIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    kv_bytes: int
    inputs_bytes: int
    total_bytes: int
    capacity_bytes: int
    fits: bool
    deficit_bytes: int
    def __init__(self, weights_bytes: _Optional[int] = ..., gradients_bytes: _Optional[int] = ..., optimizer_bytes: _Optional[int] = ..., activations_bytes: _Optional[int] = ..., kv_bytes: _Optional[int] = ..., inputs_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., capacity_bytes: _Optional[int] = ..., fits: _Optional[bool] = ..., deficit_bytes: _Optional[int] = ...) -> None: ...

class OperatorReport(_message.Message):
    __slots__ = ("name", "phase", "count", "flops", "memory_bytes", "intensity", "attainable_flops_per_s", "bound", "time_s")
    class Bound(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        BOUND_UNSPECIFIED: _ClassVar[OperatorReport.Bound]
        BOUND_COMPUTE: _ClassVar[OperatorReport.Bound]
        BOUND_MEMORY: _ClassVar[OperatorReport.Bound]
        BOUND_LINK: _ClassVar[OperatorReport.Bound]
    BOUND_UNSPECIFIED: OperatorReport.Bound
    BOUND_COMPUTE: OperatorReport.Bound
    BOUND_MEMORY: OperatorReport.Bound
    BOUND_LINK: OperatorReport.Bound
    NAME_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FLOPS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    INTENSITY_FIELD_NUMBER: _ClassVar[int]
    ATTAINABLE_FLOPS_PER_S_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    phase: str
    count: int
    flops: int
    memory_bytes: int
    intensity: float
    attainable_flops_per_s: float
    bound: OperatorReport.Bound
    time_s: float
    def __init__(self, name: _Optional[str] = ..., phase: _Optional[str] = ..., count: _Optional[int] = ..., flops: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., intensity: _Optional[float] = ..., attainable_flops_per_s: _Optional[float] = ..., bound: _Optional[_Union[OperatorReport.Bound, str]] = ..., time_s: _Optional[float] = ...) -> None: ...

class RooflineReportProgress(_message.Message):
    __slots__ = ("done", "report")
    DONE_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    done: float
    report: RooflineReport
    def __init__(self, done: _Optional[float] = ..., report: _Optional[_Union[RooflineReport, _Mapping]] = ...) -> None: ...
