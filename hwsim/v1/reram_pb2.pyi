from fedcosim.hwsim.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReramRequest(_message.Message):
    __slots__ = ("mode", "model", "data", "preparation", "layers", "crossbar", "adc", "calibration", "energy", "nonideal", "workload", "activations", "least_mapped", "most_conversions", "workers")
    class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        MODE_UNSPECIFIED: _ClassVar[ReramRequest.Mode]
        MODE_FUNCTIONAL: _ClassVar[ReramRequest.Mode]
        MODE_STATS: _ClassVar[ReramRequest.Mode]
    MODE_UNSPECIFIED: ReramRequest.Mode
    MODE_FUNCTIONAL: ReramRequest.Mode
    MODE_STATS: ReramRequest.Mode
    class Activations(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ACTIVATIONS_UNSPECIFIED: _ClassVar[ReramRequest.Activations]
        ACTIVATIONS_ANY: _ClassVar[ReramRequest.Activations]
        ACTIVATIONS_UNSIGNED: _ClassVar[ReramRequest.Activations]
    ACTIVATIONS_UNSPECIFIED: ReramRequest.Activations
    ACTIVATIONS_ANY: ReramRequest.Activations
    ACTIVATIONS_UNSIGNED: ReramRequest.Activations
    MODE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    PREPARATION_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    CROSSBAR_FIELD_NUMBER: _ClassVar[int]
    ADC_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    NONIDEAL_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    LEAST_MAPPED_FIELD_NUMBER: _ClassVar[int]
    MOST_CONVERSIONS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    mode: ReramRequest.Mode
    model: str
    data: str
    preparation: PreparationOptions
    layers: _containers.RepeatedCompositeFieldContainer[LayerShape]
    crossbar: CrossbarOptions
    adc: AdcOptions
    calibration: CalibrationOptions
    energy: EnergyOptions
    nonideal: NonidealOptions
    workload: WorkloadOptions
    activations: ReramRequest.Activations
    least_mapped: float
    most_conversions: float
    workers: int
    def __init__(self, mode: _Optional[_Union[ReramRequest.Mode, str]] = ..., model: _Optional[str] = ..., data: _Optional[str] = ..., preparation: _Optional[_Union[PreparationOptions, _Mapping]] = ..., layers: _Optional[_Iterable[_Union[LayerShape, _Mapping]]] = ..., crossbar: _Optional[_Union[CrossbarOptions, _Mapping]] = ..., adc: _Optional[_Union[AdcOptions, _Mapping]] = ..., calibration: _Optional[_Union[CalibrationOptions, _Mapping]] = ..., energy: _Optional[_Union[EnergyOptions, _Mapping]] = ..., nonideal: _Optional[_Union[NonidealOptions, _Mapping]] = ..., workload: _Optional[_Union[WorkloadOptions, _Mapping]] = ..., activations: _Optional[_Union[ReramRequest.Activations, str]] = ..., least_mapped: _Optional[float] = ..., most_conversions: _Optional[float] = ..., workers: _Optional[int] = ...) -> None: ...

class PreparationOptions(_message.Message):
    __slots__ = ("checkpoint", "trained_on", "seed")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    TRAINED_ON_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    checkpoint: str
    trained_on: int
    seed: int
    def __init__(self, checkpoint: _Optional[str] = ..., trained_on: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class LayerShape(_message.Message):
    __slots__ = ("kind", "name", "inputs", "outputs", "positions", "groups", "count", "input_gradient", "activation_density", "weight_density")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[LayerShape.Kind]
        KIND_CONV: _ClassVar[LayerShape.Kind]
        KIND_LINEAR: _ClassVar[LayerShape.Kind]
        KIND_ATTENTION: _ClassVar[LayerShape.Kind]
        KIND_DIGITAL: _ClassVar[LayerShape.Kind]
    KIND_UNSPECIFIED: LayerShape.Kind
    KIND_CONV: LayerShape.Kind
    KIND_LINEAR: LayerShape.Kind
    KIND_ATTENTION: LayerShape.Kind
    KIND_DIGITAL: LayerShape.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    INPUT_GRADIENT_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_DENSITY_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DENSITY_FIELD_NUMBER: _ClassVar[int]
    kind: LayerShape.Kind
    name: str
    inputs: int
    outputs: int
    positions: int
    groups: int
    count: int
    input_gradient: bool
    activation_density: _containers.RepeatedScalarFieldContainer[float]
    weight_density: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, kind: _Optional[_Union[LayerShape.Kind, str]] = ..., name: _Optional[str] = ..., inputs: _Optional[int] = ..., outputs: _Optional[int] = ..., positions: _Optional[int] = ..., groups: _Optional[int] = ..., count: _Optional[int] = ..., input_gradient: _Optional[bool] = ..., activation_density: _Optional[_Iterable[float]] = ..., weight_density: _Optional[_Iterable[float]] = ...) -> None: ...

class CrossbarOptions(_message.Message):
    __slots__ = ("rows", "columns", "cell_bits", "dac_bits", "weight_bits", "activation_bits", "encoding", "adcs_per_crossbar", "cycle_ns")
    class Encoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ENCODING_UNSPECIFIED: _ClassVar[CrossbarOptions.Encoding]
        ENCODING_OFFSET: _ClassVar[CrossbarOptions.Encoding]
        ENCODING_DIFFERENTIAL: _ClassVar[CrossbarOptions.Encoding]
    ENCODING_UNSPECIFIED: CrossbarOptions.Encoding
    ENCODING_OFFSET: CrossbarOptions.Encoding
    ENCODING_DIFFERENTIAL: CrossbarOptions.Encoding
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    CELL_BITS_FIELD_NUMBER: _ClassVar[int]
    DAC_BITS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BITS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_BITS_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    ADCS_PER_CROSSBAR_FIELD_NUMBER: _ClassVar[int]
    CYCLE_NS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    cell_bits: int
    dac_bits: int
    weight_bits: int
    activation_bits: int
    encoding: CrossbarOptions.Encoding
    adcs_per_crossbar: int
    cycle_ns: float
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ..., cell_bits: _Optional[int] = ..., dac_bits: _Optional[int] = ..., weight_bits: _Optional[int] = ..., activation_bits: _Optional[int] = ..., encoding: _Optional[_Union[CrossbarOptions.Encoding, str]] = ..., adcs_per_crossbar: _Optional[int] = ..., cycle_ns: _Optional[float] = ...) -> None: ...

class AdcOptions(_message.Message):
    __slots__ = ("kind", "bits", "step", "trq", "granularity", "starts", "detection_steps", "rounding", "zero_skip")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[AdcOptions.Kind]
        KIND_IDEAL: _ClassVar[AdcOptions.Kind]
        KIND_UNIFORM: _ClassVar[AdcOptions.Kind]
        KIND_UNIFORM_CALIBRATED: _ClassVar[AdcOptions.Kind]
        KIND_TRQ: _ClassVar[AdcOptions.Kind]
        KIND_LLOYD_MAX: _ClassVar[AdcOptions.Kind]
    KIND_UNSPECIFIED: AdcOptions.Kind
    KIND_IDEAL: AdcOptions.Kind
    KIND_UNIFORM: AdcOptions.Kind
    KIND_UNIFORM_CALIBRATED: AdcOptions.Kind
    KIND_TRQ: AdcOptions.Kind
    KIND_LLOYD_MAX: AdcOptions.Kind
    class Granularity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        GRANULARITY_UNSPECIFIED: _ClassVar[AdcOptions.Granularity]
        GRANULARITY_LAYER: _ClassVar[AdcOptions.Granularity]
        GRANULARITY_SLICE: _ClassVar[AdcOptions.Granularity]
    GRANULARITY_UNSPECIFIED: AdcOptions.Granularity
    GRANULARITY_LAYER: AdcOptions.Granularity
    GRANULARITY_SLICE: AdcOptions.Granularity
    class Rounding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ROUNDING_UNSPECIFIED: _ClassVar[AdcOptions.Rounding]
        ROUNDING_HALF_UP: _ClassVar[AdcOptions.Rounding]
        ROUNDING_FLOOR: _ClassVar[AdcOptions.Rounding]
    ROUNDING_UNSPECIFIED: AdcOptions.Rounding
    ROUNDING_HALF_UP: AdcOptions.Rounding
    ROUNDING_FLOOR: AdcOptions.Rounding
    KIND_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TRQ_FIELD_NUMBER: _ClassVar[int]
    GRANULARITY_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    DETECTION_STEPS_FIELD_NUMBER: _ClassVar[int]
    ROUNDING_FIELD_NUMBER: _ClassVar[int]
    ZERO_SKIP_FIELD_NUMBER: _ClassVar[int]
    kind: AdcOptions.Kind
    bits: int
    step: int
    trq: _containers.RepeatedCompositeFieldContainer[TrqParameters]
    granularity: AdcOptions.Granularity
    starts: _containers.RepeatedScalarFieldContainer[int]
    detection_steps: int
    rounding: AdcOptions.Rounding
    zero_skip: bool
    def __init__(self, kind: _Optional[_Union[AdcOptions.Kind, str]] = ..., bits: _Optional[int] = ..., step: _Optional[int] = ..., trq: _Optional[_Iterable[_Union[TrqParameters, _Mapping]]] = ..., granularity: _Optional[_Union[AdcOptions.Granularity, str]] = ..., starts: _Optional[_Iterable[int]] = ..., detection_steps: _Optional[int] = ..., rounding: _Optional[_Union[AdcOptions.Rounding, str]] = ..., zero_skip: _Optional[bool] = ...) -> None: ...

class TrqParameters(_message.Message):
    __slots__ = ("fine_bits", "coarse_bits", "fine_step", "shift", "start")
    FINE_BITS_FIELD_NUMBER: _ClassVar[int]
    COARSE_BITS_FIELD_NUMBER: _ClassVar[int]
    FINE_STEP_FIELD_NUMBER: _ClassVar[int]
    SHIFT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    fine_bits: int
    coarse_bits: int
    fine_step: int
    shift: int
    start: int
    def __init__(self, fine_bits: _Optional[int] = ..., coarse_bits: _Optional[int] = ..., fine_step: _Optional[int] = ..., shift: _Optional[int] = ..., start: _Optional[int] = ...) -> None: ...

class CalibrationOptions(_message.Message):
    __slots__ = ("accuracy_budget", "error", "samples")
    ACCURACY_BUDGET_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    accuracy_budget: float
    error: float
    samples: int
    def __init__(self, accuracy_budget: _Optional[float] = ..., error: _Optional[float] = ..., samples: _Optional[int] = ...) -> None: ...

class EnergyOptions(_message.Message):
    __slots__ = ("model", "node_nm", "logic_overhead", "schedule")
    class Model(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        MODEL_UNSPECIFIED: _ClassVar[EnergyOptions.Model]
        MODEL_ISAAC: _ClassVar[EnergyOptions.Model]
        MODEL_CDAC_WEIGHTED: _ClassVar[EnergyOptions.Model]
        MODEL_MURMANN: _ClassVar[EnergyOptions.Model]
        MODEL_NEUROSIM: _ClassVar[EnergyOptions.Model]
    MODEL_UNSPECIFIED: EnergyOptions.Model
    MODEL_ISAAC: EnergyOptions.Model
    MODEL_CDAC_WEIGHTED: EnergyOptions.Model
    MODEL_MURMANN: EnergyOptions.Model
    MODEL_NEUROSIM: EnergyOptions.Model
    class Schedule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SCHEDULE_UNSPECIFIED: _ClassVar[EnergyOptions.Schedule]
        SCHEDULE_IN_TURN: _ClassVar[EnergyOptions.Schedule]
        SCHEDULE_PIPELINED: _ClassVar[EnergyOptions.Schedule]
    SCHEDULE_UNSPECIFIED: EnergyOptions.Schedule
    SCHEDULE_IN_TURN: EnergyOptions.Schedule
    SCHEDULE_PIPELINED: EnergyOptions.Schedule
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NODE_NM_FIELD_NUMBER: _ClassVar[int]
    LOGIC_OVERHEAD_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    model: EnergyOptions.Model
    node_nm: int
    logic_overhead: float
    schedule: EnergyOptions.Schedule
    def __init__(self, model: _Optional[_Union[EnergyOptions.Model, str]] = ..., node_nm: _Optional[int] = ..., logic_overhead: _Optional[float] = ..., schedule: _Optional[_Union[EnergyOptions.Schedule, str]] = ...) -> None: ...

class NonidealOptions(_message.Message):
    __slots__ = ("programming_sigma", "on_off_ratio", "stuck_off", "stuck_on", "ir_drop", "offset_sigma", "seed")
    PROGRAMMING_SIGMA_FIELD_NUMBER: _ClassVar[int]
    ON_OFF_RATIO_FIELD_NUMBER: _ClassVar[int]
    STUCK_OFF_FIELD_NUMBER: _ClassVar[int]
    STUCK_ON_FIELD_NUMBER: _ClassVar[int]
    IR_DROP_FIELD_NUMBER: _ClassVar[int]
    OFFSET_SIGMA_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    programming_sigma: float
    on_off_ratio: float
    stuck_off: float
    stuck_on: float
    ir_drop: float
    offset_sigma: float
    seed: int
    def __init__(self, programming_sigma: _Optional[float] = ..., on_off_ratio: _Optional[float] = ..., stuck_off: _Optional[float] = ..., stuck_on: _Optional[float] = ..., ir_drop: _Optional[float] = ..., offset_sigma: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class WorkloadOptions(_message.Message):
    __slots__ = ("phase", "samples", "epochs", "batch_size", "reprogram", "rounds")
    class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PHASE_UNSPECIFIED: _ClassVar[WorkloadOptions.Phase]
        PHASE_EVALUATE: _ClassVar[WorkloadOptions.Phase]
        PHASE_TRAIN: _ClassVar[WorkloadOptions.Phase]
    PHASE_UNSPECIFIED: WorkloadOptions.Phase
    PHASE_EVALUATE: WorkloadOptions.Phase
    PHASE_TRAIN: WorkloadOptions.Phase
    class Reprogram(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REPROGRAM_UNSPECIFIED: _ClassVar[WorkloadOptions.Reprogram]
        REPROGRAM_ROUND: _ClassVar[WorkloadOptions.Reprogram]
        REPROGRAM_STEP: _ClassVar[WorkloadOptions.Reprogram]
    REPROGRAM_UNSPECIFIED: WorkloadOptions.Reprogram
    REPROGRAM_ROUND: WorkloadOptions.Reprogram
    REPROGRAM_STEP: WorkloadOptions.Reprogram
    PHASE_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    REPROGRAM_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    phase: WorkloadOptions.Phase
    samples: int
    epochs: int
    batch_size: int
    reprogram: WorkloadOptions.Reprogram
    rounds: int
    def __init__(self, phase: _Optional[_Union[WorkloadOptions.Phase, str]] = ..., samples: _Optional[int] = ..., epochs: _Optional[int] = ..., batch_size: _Optional[int] = ..., reprogram: _Optional[_Union[WorkloadOptions.Reprogram, str]] = ..., rounds: _Optional[int] = ...) -> None: ...

class ReramReport(_message.Message):
    __slots__ = ("mode", "model", "data", "conversions", "ad_operations", "ad_operations_full", "mean_ops", "mean_ops_uniform", "reduction", "reduction_vs_calibrated_uniform", "price", "accuracy_float", "accuracy_int", "accuracy_crossbar", "accuracy_uniform", "trials", "trials_uniform", "clipped", "clip_fraction", "energy_j", "energy_upper_j", "energy_low_j", "energy_high_j", "energy_reduction", "tile_power_w", "latency_s", "write_s", "crossbars", "area_mm2", "areas_mm2", "macs", "mapped_mac_fraction", "unmapped", "layers", "trq", "warnings", "provenance")
    class EnergyJEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class EnergyUpperJEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class AreasMm2Entry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MODE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CONVERSIONS_FIELD_NUMBER: _ClassVar[int]
    AD_OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    AD_OPERATIONS_FULL_FIELD_NUMBER: _ClassVar[int]
    MEAN_OPS_FIELD_NUMBER: _ClassVar[int]
    MEAN_OPS_UNIFORM_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_VS_CALIBRATED_UNIFORM_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FLOAT_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_INT_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_CROSSBAR_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_UNIFORM_FIELD_NUMBER: _ClassVar[int]
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    TRIALS_UNIFORM_FIELD_NUMBER: _ClassVar[int]
    CLIPPED_FIELD_NUMBER: _ClassVar[int]
    CLIP_FRACTION_FIELD_NUMBER: _ClassVar[int]
    ENERGY_J_FIELD_NUMBER: _ClassVar[int]
    ENERGY_UPPER_J_FIELD_NUMBER: _ClassVar[int]
    ENERGY_LOW_J_FIELD_NUMBER: _ClassVar[int]
    ENERGY_HIGH_J_FIELD_NUMBER: _ClassVar[int]
    ENERGY_REDUCTION_FIELD_NUMBER: _ClassVar[int]
    TILE_POWER_W_FIELD_NUMBER: _ClassVar[int]
    LATENCY_S_FIELD_NUMBER: _ClassVar[int]
    WRITE_S_FIELD_NUMBER: _ClassVar[int]
    CROSSBARS_FIELD_NUMBER: _ClassVar[int]
    AREA_MM2_FIELD_NUMBER: _ClassVar[int]
    AREAS_MM2_FIELD_NUMBER: _ClassVar[int]
    MACS_FIELD_NUMBER: _ClassVar[int]
    MAPPED_MAC_FRACTION_FIELD_NUMBER: _ClassVar[int]
    UNMAPPED_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    TRQ_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    mode: str
    model: str
    data: str
    conversions: float
    ad_operations: float
    ad_operations_full: float
    mean_ops: float
    mean_ops_uniform: float
    reduction: float
    reduction_vs_calibrated_uniform: float
    price: float
    accuracy_float: float
    accuracy_int: float
    accuracy_crossbar: float
    accuracy_uniform: float
    trials: _containers.RepeatedCompositeFieldContainer[Trial]
    trials_uniform: _containers.RepeatedCompositeFieldContainer[Trial]
    clipped: float
    clip_fraction: float
    energy_j: _containers.ScalarMap[str, float]
    energy_upper_j: _containers.ScalarMap[str, float]
    energy_low_j: float
    energy_high_j: float
    energy_reduction: float
    tile_power_w: float
    latency_s: float
    write_s: float
    crossbars: int
    area_mm2: float
    areas_mm2: _containers.ScalarMap[str, float]
    macs: int
    mapped_mac_fraction: float
    unmapped: _containers.RepeatedScalarFieldContainer[str]
    layers: _containers.RepeatedCompositeFieldContainer[LayerReport]
    trq: _containers.RepeatedCompositeFieldContainer[TrqParameters]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    provenance: ReramProvenance
    def __init__(self, mode: _Optional[str] = ..., model: _Optional[str] = ..., data: _Optional[str] = ..., conversions: _Optional[float] = ..., ad_operations: _Optional[float] = ..., ad_operations_full: _Optional[float] = ..., mean_ops: _Optional[float] = ..., mean_ops_uniform: _Optional[float] = ..., reduction: _Optional[float] = ..., reduction_vs_calibrated_uniform: _Optional[float] = ..., price: _Optional[float] = ..., accuracy_float: _Optional[float] = ..., accuracy_int: _Optional[float] = ..., accuracy_crossbar: _Optional[float] = ..., accuracy_uniform: _Optional[float] = ..., trials: _Optional[_Iterable[_Union[Trial, _Mapping]]] = ..., trials_uniform: _Optional[_Iterable[_Union[Trial, _Mapping]]] = ..., clipped: _Optional[float] = ..., clip_fraction: _Optional[float] = ..., energy_j: _Optional[_Mapping[str, float]] = ..., energy_upper_j: _Optional[_Mapping[str, float]] = ..., energy_low_j: _Optional[float] = ..., energy_high_j: _Optional[float] = ..., energy_reduction: _Optional[float] = ..., tile_power_w: _Optional[float] = ..., latency_s: _Optional[float] = ..., write_s: _Optional[float] = ..., crossbars: _Optional[int] = ..., area_mm2: _Optional[float] = ..., areas_mm2: _Optional[_Mapping[str, float]] = ..., macs: _Optional[int] = ..., mapped_mac_fraction: _Optional[float] = ..., unmapped: _Optional[_Iterable[str]] = ..., layers: _Optional[_Iterable[_Union[LayerReport, _Mapping]]] = ..., trq: _Optional[_Iterable[_Union[TrqParameters, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ..., provenance: _Optional[_Union[ReramProvenance, _Mapping]] = ...) -> None: ...

class Trial(_message.Message):
    __slots__ = ("mean_ops", "lost")
    MEAN_OPS_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    mean_ops: float
    lost: float
    def __init__(self, mean_ops: _Optional[float] = ..., lost: _Optional[float] = ...) -> None: ...

class LayerReport(_message.Message):
    __slots__ = ("name", "kind", "adc", "uniform", "inputs", "outputs", "groups", "positions", "crossbars", "row_utilisation", "column_utilisation", "macs", "conversions", "ad_operations", "mean_ops", "coarse_fraction", "clipped", "clip_fraction", "skipped_fraction", "levels", "error_predicted", "error_measured", "energy_adc_j", "latency_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ADC_FIELD_NUMBER: _ClassVar[int]
    UNIFORM_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    CROSSBARS_FIELD_NUMBER: _ClassVar[int]
    ROW_UTILISATION_FIELD_NUMBER: _ClassVar[int]
    COLUMN_UTILISATION_FIELD_NUMBER: _ClassVar[int]
    MACS_FIELD_NUMBER: _ClassVar[int]
    CONVERSIONS_FIELD_NUMBER: _ClassVar[int]
    AD_OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    MEAN_OPS_FIELD_NUMBER: _ClassVar[int]
    COARSE_FRACTION_FIELD_NUMBER: _ClassVar[int]
    CLIPPED_FIELD_NUMBER: _ClassVar[int]
    CLIP_FRACTION_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FRACTION_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    ERROR_PREDICTED_FIELD_NUMBER: _ClassVar[int]
    ERROR_MEASURED_FIELD_NUMBER: _ClassVar[int]
    ENERGY_ADC_J_FIELD_NUMBER: _ClassVar[int]
    LATENCY_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    adc: _containers.RepeatedScalarFieldContainer[str]
    uniform: _containers.RepeatedScalarFieldContainer[str]
    inputs: int
    outputs: int
    groups: int
    positions: int
    crossbars: int
    row_utilisation: float
    column_utilisation: float
    macs: int
    conversions: float
    ad_operations: float
    mean_ops: float
    coarse_fraction: float
    clipped: float
    clip_fraction: float
    skipped_fraction: float
    levels: _containers.RepeatedScalarFieldContainer[float]
    error_predicted: float
    error_measured: float
    energy_adc_j: float
    latency_s: float
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., adc: _Optional[_Iterable[str]] = ..., uniform: _Optional[_Iterable[str]] = ..., inputs: _Optional[int] = ..., outputs: _Optional[int] = ..., groups: _Optional[int] = ..., positions: _Optional[int] = ..., crossbars: _Optional[int] = ..., row_utilisation: _Optional[float] = ..., column_utilisation: _Optional[float] = ..., macs: _Optional[int] = ..., conversions: _Optional[float] = ..., ad_operations: _Optional[float] = ..., mean_ops: _Optional[float] = ..., coarse_fraction: _Optional[float] = ..., clipped: _Optional[float] = ..., clip_fraction: _Optional[float] = ..., skipped_fraction: _Optional[float] = ..., levels: _Optional[_Iterable[float]] = ..., error_predicted: _Optional[float] = ..., error_measured: _Optional[float] = ..., energy_adc_j: _Optional[float] = ..., latency_s: _Optional[float] = ...) -> None: ...

class ReramProvenance(_message.Message):
    __slots__ = ("request_sha256", "constants_sha256", "adc_energy_model", "node_nm", "calibration_samples", "tuning_samples", "test_samples", "versions")
    REQUEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    CONSTANTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    ADC_ENERGY_MODEL_FIELD_NUMBER: _ClassVar[int]
    NODE_NM_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TUNING_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TEST_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    request_sha256: str
    constants_sha256: str
    adc_energy_model: str
    node_nm: int
    calibration_samples: int
    tuning_samples: int
    test_samples: int
    versions: str
    def __init__(self, request_sha256: _Optional[str] = ..., constants_sha256: _Optional[str] = ..., adc_energy_model: _Optional[str] = ..., node_nm: _Optional[int] = ..., calibration_samples: _Optional[int] = ..., tuning_samples: _Optional[int] = ..., test_samples: _Optional[int] = ..., versions: _Optional[str] = ...) -> None: ...

class ReramReportProgress(_message.Message):
    __slots__ = ("done", "report")
    DONE_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    done: float
    report: ReramReport
    def __init__(self, done: _Optional[float] = ..., report: _Optional[_Union[ReramReport, _Mapping]] = ...) -> None: ...
