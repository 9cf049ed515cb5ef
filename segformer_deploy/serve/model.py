"""Which of a server's models segments frames for us, and what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from segformer_deploy.errors import ServerError, SpecError
from segformer_deploy.serve.names import CLASS_MAP, ENGINE_PARAMETER, FRAME, SPEC_PARAMETER
from segformer_deploy.serve.transport import RefusedError, Transport
from segformer_deploy.spec import ModelSpec

_PACKAGE = "segdeploy package ENGINE --triton DIR, DIR being the server's --model-repository"


@dataclass(frozen=True)
class ServedModel:
    """A packaged engine on a server.

    Attributes:
        name, version: an empty version is the server's choice.
        spec: classes, palette, resize rule, weights.
        max_batch: frames of one request.
        engine: what the package says of its engine: name, backend, precision, device, …
    """

    name: str
    version: str
    spec: ModelSpec
    max_batch: int
    engine: Mapping[str, Any]

    def __str__(self) -> str:
        words = [str(self.engine[key]) for key in ("backend", "precision") if key in self.engine]
        version = f" version {self.version}" if self.version else ""
        return f"{self.name}{version}" + (f" ({', '.join(words)})" if words else "")


def served_model(transport: Transport, name: str | None, version: str) -> ServedModel:
    """The model named, or the only one there that segments; ServerError where there is none."""
    if name is not None:
        config = _config(transport, name, version)
        if _parameter(config, SPEC_PARAMETER) is None:
            raise ServerError(
                f"the model '{name}' of {transport.url} was not packaged by segdeploy",
                f"a configuration with the parameter '{SPEC_PARAMETER}'",
                _there(transport) or _PACKAGE,
            )
        return _from_config(transport.url, name, version, config)
    only, config = _the_only(transport)
    if version:
        config = _config(transport, only, version)
    return _from_config(transport.url, only, version, config)


def check_classes(values: npt.NDArray[Any], model: ServedModel, url: str) -> None:
    """ServerError where class maps name a class that the model does not have."""
    least, most = int(values.min()), int(values.max())
    if least < 0 or most >= model.spec.classes:
        raise ServerError(
            f"{url} answered with class {least if least < 0 else most}",
            f"0 to {model.spec.classes - 1}: the classes of '{model.name}' by its configuration",
            "package the engine again with this version: " + _PACKAGE,
        )


def _the_only(transport: Transport) -> tuple[str, Mapping[str, Any]]:
    try:
        found, refused = _segmenting(transport)
    except RefusedError as error:
        raise ServerError(
            f"{transport.url} does not tell which models it has ({error.text})",
            "the repository index, where no model is named",
            "name it: --model NAME",
        ) from error
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        names = ", ".join(sorted(found))
        raise ServerError(
            f"{transport.url} has {len(found)} models that segment: {names}",
            "one, or the name of one of them",
            f"--model {min(found)}",
        )
    why = "".join(f"; '{name}' does not describe itself ({text})" for name, text in refused[:1])
    raise ServerError(
        f"{transport.url} has no model that segments{why}",
        "one, or the name of one of them",
        _PACKAGE,
    )


def _segmenting(
    transport: Transport,
) -> tuple[dict[str, Mapping[str, Any]], list[tuple[str, str]]]:
    """Configurations of the models that are ready and were packaged by us; who refused, and why."""
    found: dict[str, Mapping[str, Any]] = {}
    refused: list[tuple[str, str]] = []
    for name in transport.models():
        try:
            config = transport.config(name, "")
        except RefusedError as error:
            refused.append((name, error.text))  # unloaded in between, or not for everyone
            continue
        if _parameter(config, SPEC_PARAMETER) is not None:
            found[name] = config
    return found, refused


def _there(transport: Transport) -> str:
    try:
        names = sorted(_segmenting(transport)[0])
    except (ServerError, RefusedError):
        return ""
    return "" if not names else "--model with one that was: " + ", ".join(names)


def _config(transport: Transport, name: str, version: str) -> Mapping[str, Any]:
    try:
        return transport.config(name, version)
    except RefusedError as error:
        which = f"'{name}'" + (f" in version {version}" if version else "")
        raise ServerError(
            f"{transport.url} has no model {which} that is ready ({error.text})",
            "a packaged engine that the server has loaded",
            _there(transport) or f"the server's log says why; {_PACKAGE}",
        ) from error


def _parameter(config: Mapping[str, Any], key: str) -> str | None:
    parameters = config.get("parameters")
    value = parameters.get(key) if isinstance(parameters, Mapping) else None
    if value is None:
        return None
    return str(value.get("string_value", "")) if isinstance(value, Mapping) else ""


def _names(config: Mapping[str, Any], key: str) -> list[str]:
    """Of the inputs or outputs; none where it does not read."""
    tensors = config.get(key)
    if not isinstance(tensors, list):
        return []
    return sorted(str(one.get("name")) for one in tensors if isinstance(one, Mapping))


def _most_frames(config: Mapping[str, Any]) -> int:
    """Without batching a model has no batch dimension, which the front model always has."""
    most = config.get("max_batch_size", 1)
    if not isinstance(most, int):
        raise ValueError(f"a max_batch_size of {most!r}")
    return max(1, most)


def _from_config(url: str, name: str, version: str, config: Mapping[str, Any]) -> ServedModel:
    inputs, outputs = _names(config, "input"), _names(config, "output")
    again = "package the engine again with this version: " + _PACKAGE
    if FRAME not in inputs or CLASS_MAP not in outputs:
        raise ServerError(
            f"the model '{name}' of {url} takes {inputs} and gives {outputs}",
            f"'{FRAME}' in, '{CLASS_MAP}' out",
            again,
        )
    try:
        spec = ModelSpec.from_json(_parameter(config, SPEC_PARAMETER) or "")
        engine = dict(json.loads(_parameter(config, ENGINE_PARAMETER) or "{}"))
        most = _most_frames(config)
    except (SpecError, ValueError, TypeError) as error:
        raise ServerError(
            f"the model '{name}' of {url} describes itself in a way that does not read ({error})",
            "what segdeploy package writes",
            again,
        ) from error
    return ServedModel(name, version, spec, most, engine)
