"""Which of a server's models segments frames for us, and what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    found = _segmenting(transport)
    if len(found) != 1:
        names = ", ".join(sorted(found))
        raise ServerError(
            f"{transport.url} has {len(found)} models that segment: {names}"
            if found
            else f"{transport.url} has no model that segments",
            "one, or the name of one of them",
            f"--model {sorted(found)[0]}" if found else _PACKAGE,
        )
    ((only, config),) = found.items()
    if version:
        config = _config(transport, only, version)
    return _from_config(transport.url, only, version, config)


def _segmenting(transport: Transport) -> dict[str, Mapping[str, Any]]:
    """Configurations of the models that are ready and were packaged by us."""
    found: dict[str, Mapping[str, Any]] = {}
    for name in transport.models():
        try:
            config = transport.config(name, "")
        except RefusedError:
            continue  # it was unloaded in between
        if _parameter(config, SPEC_PARAMETER) is not None:
            found[name] = config
    return found


def _there(transport: Transport) -> str:
    try:
        names = sorted(_segmenting(transport))
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
    value = config.get("parameters", {}).get(key)
    return None if value is None else str(value.get("string_value", ""))


def _from_config(url: str, name: str, version: str, config: Mapping[str, Any]) -> ServedModel:
    inputs = {one["name"] for one in config.get("input", ())}
    outputs = {one["name"] for one in config.get("output", ())}
    again = "package the engine again with this version: " + _PACKAGE
    if FRAME not in inputs or CLASS_MAP not in outputs:
        raise ServerError(
            f"the model '{name}' of {url} takes {sorted(inputs)} and gives {sorted(outputs)}",
            f"'{FRAME}' in, '{CLASS_MAP}' out",
            again,
        )
    try:
        spec = ModelSpec.from_json(_parameter(config, SPEC_PARAMETER) or "")
        engine = json.loads(_parameter(config, ENGINE_PARAMETER) or "{}")
    except (SpecError, ValueError) as error:
        raise ServerError(
            f"the model '{name}' of {url} describes itself in a way that does not read ({error})",
            "what segdeploy package writes",
            again,
        ) from error
    # Without batching a model has no batch dimension, which the front model always has.
    return ServedModel(name, version, spec, max(1, int(config.get("max_batch_size", 1))), engine)
