"""Triton's `config.pbtxt` for the front model and for the network behind it.

Field names and their meaning: `model_config.proto` of the Triton inference server.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from segformer_deploy.errors import InputError, SpecError
from segformer_deploy.serve.names import (
    CLASS_MAP,
    ENCODED,
    ENGINE_PARAMETER,
    FRAME,
    SPEC_PARAMETER,
    class_map_type,
)
from segformer_deploy.serve.network_file import NetworkFile
from segformer_deploy.serve.pbtxt import Message, Word, text_from_message
from segformer_deploy.spec import FrameSize, ModelSpec

LABELS = "labels.txt"
HEADING = "# Written by `segdeploy package`; write it again instead of changing it.\n"
_OF_FRONT = "# The network of the model "
_MOST_DELAY_MS = 10_000.0
_NEWEST: Message = [("version_policy", [("latest", [("num_versions", 1)])])]


@dataclass(frozen=True)
class Serving:
    """How a server runs a model.

    Attributes:
        instances: copies of the front model; on a GPU, of each GPU.
        gpu: whether front models run on GPUs (the network's own place is its `NetworkFile`'s).
        max_batch: frames that one call may bring together.
        delay_ms: how long a frame may wait for others to come.
    """

    instances: int = 1
    gpu: bool = False
    max_batch: int = 8
    delay_ms: float = 1.0

    def __post_init__(self) -> None:
        if self.instances < 1 or self.max_batch < 1:
            raise InputError(
                f"{self.instances} instances, a batch of {self.max_batch}", "1 or more of each"
            )
        if not 0 <= self.delay_ms <= _MOST_DELAY_MS:
            raise InputError(
                f"a delay of {self.delay_ms} ms", f"0 to {_MOST_DELAY_MS:.0f} milliseconds"
            )


def front_config(
    name: str,
    spec: ModelSpec,
    serving: Serving,
    engine: dict[str, object],
    warmup: FrameSize | None,
) -> str:
    """The configuration of the front model.

    Args:
        engine: what a client may show of the engine.
        warmup: of the frame that each instance segments before it is ready; None where that cannot
            be: in front of a network, which answers nothing while the server starts.
    """
    parameters = {SPEC_PARAMETER: spec.to_json(), ENGINE_PARAMETER: json.dumps(engine)}
    # Ragged: cameras of several sizes share a batch; a batch would end at each change otherwise.
    mixed: Message = [("allow_ragged_batch", True), ("optional", True)]
    frame = [*_tensor(FRAME, "uint8", [-1, -1, 3]), *mixed]
    encoded = [*_tensor(ENCODED, "uint8", [-1]), *mixed]
    output = [*_tensor(CLASS_MAP, class_map_type(spec), [-1, -1]), ("label_filename", LABELS)]
    return HEADING + text_from_message(
        [
            ("name", name),
            ("backend", "python"),
            ("max_batch_size", serving.max_batch),
            *_NEWEST,
            ("input", frame),
            ("input", encoded),
            ("output", output),
            *_running(serving, gpu=serving.gpu, instances=serving.instances),
            *([] if warmup is None else [_warmup(FRAME, warmup)]),
            *_parameters(parameters),
        ]
    )


def network_config(
    name: str,
    spec: ModelSpec,
    serving: Serving,
    network: NetworkFile,
    *,
    front: str,
    version: int,
) -> str:
    """The configuration of the network for Triton's own `tensorrt` or `onnxruntime` backend.

    Args:
        front: the name of the model that asks it, which the second line says.
        version: the only one that the server loads: another one's file may want another backend.
    """
    output = [*_tensor(*network.output(spec)), ("label_filename", LABELS)]
    return f"{HEADING}{_OF_FRONT}{front}\n" + text_from_message(
        [
            ("name", name),
            ("platform", network.platform),
            ("backend", network.backend),
            ("default_model_filename", network.file_name),
            ("max_batch_size", serving.max_batch),
            *_only(version),
            ("input", _tensor("image", "uint8", [-1, -1, 3])),
            ("output", output),
            *_running(serving, gpu=network.gpu, instances=1, profiles=network.profiles),
            _warmup("image", network.usual_size),
        ]
    )


def front_of(config: str) -> str | None:
    """The model whose network `config` describes; None: of no network that we wrote."""
    line = config.removeprefix(HEADING).partition("\n")[0]
    if not config.startswith(HEADING) or not line.startswith(_OF_FRONT):
        return None
    return line.removeprefix(_OF_FRONT)


def config_for_version(config: str, version: int) -> str:
    """The front's configuration `config`, by which a server takes `version`, not the newest."""
    newest = text_from_message(_NEWEST)
    if newest not in config:
        raise SpecError(
            f"the configuration of version {version} does not take the newest version",
            "a configuration as segdeploy package writes it",
            "package its engine again, as a new version: segdeploy package ENGINE --triton DIR",
        )
    return config.replace(newest, text_from_message(_only(version)), 1)


def _only(version: int) -> Message:
    return [("version_policy", [("specific", [("versions", [version])])])]


def _tensor(name: str, dtype: str, dims: list[int]) -> Message:
    """Dimensions are without the batch's."""
    kind = "FP32" if dtype == "float32" else dtype.upper()
    return [("name", name), ("data_type", Word(f"TYPE_{kind}")), ("dims", dims)]


def _running(serving: Serving, *, gpu: bool, instances: int, profiles: int = 1) -> Message:
    group: Message = [
        ("count", instances),
        ("kind", Word("KIND_GPU" if gpu else "KIND_CPU")),
    ]
    if profiles > 1:  # else Triton uses the first alone
        group.append(("profile", [str(index) for index in range(profiles)]))
    batching: Message = [("max_queue_delay_microseconds", round(serving.delay_ms * 1000))]
    return [
        ("dynamic_batching", batching),
        ("instance_group", group),
    ]


def _warmup(tensor: str, size: FrameSize) -> tuple[str, Message]:
    # Noise, not zeros: the cost of our class map depends on what is seen.
    value: Message = [
        ("data_type", Word("TYPE_UINT8")),
        ("dims", [size.height, size.width, 3]),
        ("random_data", True),
    ]
    inputs: Message = [("key", tensor), ("value", value)]
    sample: Message = [("name", "one frame"), ("batch_size", 1), ("inputs", inputs)]
    return "model_warmup", sample


def _parameters(texts: dict[str, str]) -> Message:
    return [
        ("parameters", [("key", key), ("value", [("string_value", text)])])
        for key, text in texts.items()
    ]
