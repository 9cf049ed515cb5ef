"""The page that lies in a packaged model: how to start a server with it."""

from __future__ import annotations

from typing import Any

from segformer_deploy.engine.manifest import Manifest

_TEXT = """# {name}

SegFormer ({variant}, {precision}) for NVIDIA's Triton inference server.
Written by `segdeploy package`.

## Start
`MODELS` is the folder that holds this one. `TRITON_IMAGE` is a Triton server image with {needs}.

```sh
docker run --rm {gpus}--shm-size=1g -p 127.0.0.1:8000:8000 -p 127.0.0.1:8001:8001 \\
  -v "$MODELS":/models:ro -v segdeploy-cache:/cache -e XDG_CACHE_HOME=/cache "$TRITON_IMAGE" \\
  sh -c 'pip install "segformer-deploy[{extras}]" && exec tritonserver --model-repository=/models'
```

So it is reached from this machine alone: Triton knows neither users nor passwords, and whoever
reaches its ports can use it. To open it to a network that you trust, put this machine's address
in that network for `127.0.0.1`: `-p 192.0.2.7:8000:8000`. With neither, `-p 8000:8000`, Docker
opens it to all networks, past most firewalls.

The image's Python must find `segformer_deploy`, hence the `pip install`; an image of your own that
has it starts faster. `/cache` keeps the result of the check at first load, and may be left out:
the check is then made at each start. Frames travel through shared memory (`--shm-size`).

## Go back
`segdeploy package --triton "$MODELS" --name {name} --use N` has a server take version N, with that
version's configuration; no folder has to be removed.

## Ask
```sh
segdeploy client http://localhost:8000 --source video.mp4
```

| tensor | type | shape | |
|---|---|---|---|
| `frame` | UINT8 | [B, height, width, 3] | pixels, BGR; request parameter `pixel_format`: `rgb` |
| `encoded` | UINT8 | [B, bytes] | or the bytes of a JPEG or PNG file |
| `class_map` | {kind} | [B, height, width] | the answer, at the frame's own size |

A request brings one of the two inputs. The names and colours of the classes are in the
configuration's parameter `segdeploy`; the names alone are in `labels.txt`.
"""


def readme_text(name: str, manifest: Manifest, engine: dict[str, Any], network: str | None) -> str:
    """README.md of the front model `name`."""
    gpu = engine["device"] == "gpu"
    needs = "the Python backend"
    if network is not None:
        backend = "TensorRT" if engine["plan"] else "ONNX Runtime"
        version = f" {manifest.backend_version}" if engine["plan"] else ""
        needs = f"the Python and the {backend} backend"
        needs += f", of TensorRT{version}: a plan loads in the release it was built for" * bool(
            engine["plan"]
        )
    return _TEXT.format(
        name=name,
        variant=manifest.spec.variant,
        precision=manifest.delivered,
        needs=needs,
        gpus="--gpus all " if gpu else "",
        extras=_extras(manifest, gpu=gpu, network=network),
        kind="UINT8" if manifest.spec.classes <= 256 else "INT32",
    )


def _extras(manifest: Manifest, *, gpu: bool, network: str | None) -> str:
    if network is not None:
        return "cpu"
    if manifest.plan is not None:
        return f"cpu,{manifest.backend},cuda"
    return "gpu" if gpu else "cpu"
