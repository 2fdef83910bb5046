"""accelerate's environment variables: which are heeded, refused or ignored.

`Accelerator` reads variables wherever no argument stands against them: gradients would be divided by
ACCELERATE_GRADIENT_ACCUMULATION_STEPS and the model compiled because of ACCELERATE_DYNAMO_BACKEND, whatever the flags
say. `accelerate launch` sets many of them from its configuration, also from the one in the home folder. So that the
flags alone decide, every variable of accelerate's is hidden from it but those that are listed here as heeded. A
variable that would change the training is named at the start and in ``run.json`` (docs/many_machines.md has the list).

Nothing here imports torch.
"""

import os
from collections.abc import Mapping

_PREFIXES = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_", "MEGATRON_LM_")
#: accelerate sets this variable in the processes that it starts if their weights are to be sharded.
SHARDING_VARIABLE = "ACCELERATE_USE_FSDP"
CPU_VARIABLE = "ACCELERATE_USE_CPU"
_HOW_TO_SHARD = "weights can only be sharded with FSDP2, see accelerate_configs/fsdp2.yaml"
#: What cannot be ignored: without it, a model that needs it would be trained in another way, or not fit.
_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": _HOW_TO_SHARD,
    "ACCELERATE_USE_MEGATRON_LM": _HOW_TO_SHARD,
    "ACCELERATE_USE_PARALLELISM_CONFIG": _HOW_TO_SHARD,
    "ACCELERATE_USE_SAGEMAKER": "training on SageMaker is not supported; unset it",
}
_FLAGS = ("ACCELERATE_DEBUG_MODE", "ACCELERATE_CPU_AFFINITY", "ACCELERATE_ENABLE_RICH", CPU_VARIABLE)
#: What says how to run rather than what to compute. Weights are sharded by `vl_model.training.sharding`.
HEEDED = (*_FLAGS, "ACCELERATE_LOG_LEVEL", "ACCELERATE_BYPASS_DEVICE_MAP", SHARDING_VARIABLE, "FSDP_VERSION")
#: The flag that decides instead.
_FLAG_INSTEAD = {
    "ACCELERATE_MIXED_PRECISION": "--mixed_precision",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "--gradient_accumulation_steps",
    "ACCELERATE_GRADIENT_CLIPPING": "--max_grad_norm",
    "ACCELERATE_DYNAMO_BACKEND": "--compile",
    "FSDP_ACTIVATION_CHECKPOINTING": "--gradient_checkpointing",
    "ACCELERATE_TORCH_DEVICE": "CUDA_VISIBLE_DEVICES",
}
_YES, _NO = ("1", "true", "t", "yes", "y", "on"), ("0", "false", "f", "no", "n", "off", "", "none")
#: What `accelerate launch` sets by default if weights are sharded; other variables are neutral if they say no.
_NEUTRAL = {
    "ACCELERATE_DYNAMO_MODE": ("default",),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1",),
    "ACCELERATE_FP8_BACKEND": ("no",),
    "FSDP_SHARDING_STRATEGY": ("full_shard", "1"),
    "FSDP_RESHARD_AFTER_FORWARD": ("true", "full_shard"),
    "FSDP_MIN_NUM_PARAMS": ("100000000",),
    "FSDP_AUTO_WRAP_POLICY": ("no_wrap", "transformer_based_wrap"),
    "FSDP_BACKWARD_PREFETCH": ("backward_pre", "no_prefetch"),
    "FSDP_STATE_DICT_TYPE": ("sharded_state_dict", "full_state_dict"),
    "FSDP_USE_ORIG_PARAMS": ("true",),
    "FSDP_CPU_RAM_EFFICIENT_LOADING": ("true",),
    "FSDP_SYNC_MODULE_STATES": ("true",),
}
#: Variables that torch itself and its libraries heed and that change numbers, speed or the device: they are recorded.
_OF_TORCH = (
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "KMP_AFFINITY", "KMP_BLOCKTIME"),
    *("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE", "TORCHINDUCTOR_MAX_AUTOTUNE"),
    *("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG", "CUDA_LAUNCH_BLOCKING"),
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "MKL_CBWR"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "THP_MEM_ALLOC_ENABLE", "NCCL_P2P_DISABLE", "NCCL_IB_DISABLE"),
)


def check_environment() -> None:
    """Raise ValueError for a variable that asks for a training that there is not, or that cannot be read."""
    for name, remedy in _REFUSED.items():
        if is_set(name):
            raise ValueError(f"{name} is set: {remedy}")
    for name in _FLAGS:
        is_set(name)
    version = os.environ.get("FSDP_VERSION", "").strip() or "1"
    if is_set(SHARDING_VARIABLE) and version != "2":
        raise ValueError(f"fsdp_version is {version}: {_HOW_TO_SHARD}")


def is_set(name: str) -> bool:
    """Return whether a variable says yes. Raises ValueError if it says neither yes nor no."""
    value = os.environ.get(name, "").strip().lower()
    if value not in (*_YES, *_NO):
        raise ValueError(f"{name}={value[:50]!r}: should be true or false")
    return value in _YES


def ignored_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables of accelerate's that would change the training, and are ignored."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if name.startswith(_PREFIXES) and name not in HEEDED and not _is_neutral(name, value)
    }


def heeded_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables of accelerate's and of torch's that are heeded, for the record of the run.

    Those of sharding are left out: they are hidden once they have been heeded, and the record has an entry of its own.
    """
    names = {*HEEDED, *_OF_TORCH} - {SHARDING_VARIABLE, "FSDP_VERSION"}
    return {name: environment[name] for name in sorted(names) if environment.get(name)}


def compiles() -> bool:
    """Return whether torch.compile compiles: torch's variables may switch it off."""
    return not any(os.environ.get(name) == "1" for name in ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"))


def ignored_in_words(ignored: Mapping[str, str]) -> list[str]:
    """Return one line for each variable that is ignored."""
    return [
        f"{name}={value[:100]} is ignored" + (f": {_FLAG_INSTEAD[name]} decides" if name in _FLAG_INSTEAD else "")
        for name, value in ignored.items()
    ]


def hide_variables() -> None:
    """Remove every variable of accelerate's from the environment but those that are heeded.

    SHARDING_VARIABLE is hidden, too: accelerate would shard on GPUs only, and transformers would load weights in the
    first process only.
    """
    for name in [name for name in os.environ if name.startswith(_PREFIXES) and name not in HEEDED]:
        del os.environ[name]
    for name in _FLAGS:
        if name in os.environ:  # accelerate refuses other words, also an empty one
            os.environ[name] = str(is_set(name)).lower()
    os.environ[SHARDING_VARIABLE] = "false"


def _is_neutral(name: str, value: str) -> bool:
    said = value.strip().lower()
    return said in _NO or said in _NEUTRAL.get(name, ())
