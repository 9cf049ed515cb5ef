"""Held against `ModelConfig` of Triton's own protocol (tritonclient)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segformer_deploy.engine.manifest import read_manifest
from segformer_deploy.errors import InputError, SpecError
from segformer_deploy.serve.model_config import (
    Serving,
    config_for_version,
    front_config,
    network_config,
)
from segformer_deploy.serve.network_file import network_file
from segformer_deploy.spec import FrameSize, ModelSpec, default_class_names, default_palette
from tests.little import little_spec
from tests.serve.engines import as_plan, little_engine
from tests.serve.server import need_client


def parsed(text: str) -> Any:
    need_client()
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    return text_format.Parse(text, ModelConfig())


def many_classes(count: int) -> ModelSpec:
    names = ('Straße "A"\n', *default_class_names(count)[1:])
    return little_spec(class_names=names, palette=default_palette(count))


@pytest.mark.triton
def test_the_front_models_fields() -> None:
    serving = Serving(instances=3, gpu=True, max_batch=6, delay_ms=2.5)
    spec = many_classes(300)
    config = parsed(front_config("a-name", spec, serving, {"name": "e"}, FrameSize(64, 96)))
    assert (config.name, config.backend, config.max_batch_size) == ("a-name", "python", 6)
    frame, encoded = config.input
    u8, i32 = 2, 8  # TYPE_UINT8 and TYPE_INT32 in model_config.proto
    assert (frame.name, frame.data_type, list(frame.dims)) == ("frame", u8, [-1, -1, 3])
    assert (encoded.name, encoded.data_type, list(encoded.dims)) == ("encoded", u8, [-1])
    assert all(one.optional and one.allow_ragged_batch for one in config.input)
    (output,) = config.output
    assert (output.name, output.data_type, list(output.dims)) == ("class_map", i32, [-1, -1])
    assert output.label_filename == "labels.txt"
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 2500
    (group,) = config.instance_group
    assert (group.count, group.Kind.Name(group.kind)) == (3, "KIND_GPU")
    assert config.version_policy.latest.num_versions == 1
    (warmup,) = config.model_warmup
    sample = warmup.inputs["frame"]
    assert (warmup.batch_size, list(sample.dims), sample.data_type) == (1, [64, 96, 3], u8)
    assert sample.random_data
    assert set(warmup.inputs) == {"frame"}
    assert ModelSpec.from_json(config.parameters["segdeploy"].string_value) == spec
    assert json.loads(config.parameters["segdeploy_engine"].string_value) == {"name": "e"}


@pytest.mark.triton
@pytest.mark.parametrize(("classes", "kind"), [(256, "TYPE_UINT8"), (257, "TYPE_INT32")])
def test_the_class_maps_type_follows_the_number_of_classes(classes: int, kind: str) -> None:
    spec = many_classes(classes)
    config = parsed(front_config("a", spec, Serving(), {}, FrameSize(64, 64)))
    assert (
        config.output[0]
        .DESCRIPTOR.fields_by_name["data_type"]
        .enum_type.values_by_number[config.output[0].data_type]
        .name
        == kind
    )


@pytest.mark.triton
@pytest.mark.parametrize("profiles", [1, 2])
def test_a_plan_for_the_tensorrt_backend(tmp_path: Path, profiles: int) -> None:
    folder = as_plan(little_engine(tmp_path), profiles=profiles)
    manifest = read_manifest(folder)
    network = network_file(folder, manifest, gpu=None)
    config = parsed(
        network_config("n", manifest.spec, Serving(max_batch=4), network, front="f", version=7)
    )
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert (config.default_model_filename, config.max_batch_size) == ("model.plan", 4)
    (image,), (logits,) = config.input, config.output
    assert (image.name, image.data_type, list(image.dims)) == ("image", 2, [-1, -1, 3])
    # TYPE_FP32 is 11.
    assert (logits.name, logits.data_type, list(logits.dims)) == ("logits", 11, [3, -1, -1])
    (group,) = config.instance_group
    assert (group.count, group.Kind.Name(group.kind)) == (1, "KIND_GPU")
    assert list(group.profile) == ([] if profiles == 1 else ["0", "1"])
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    (warmup,) = config.model_warmup
    assert list(warmup.inputs["image"].dims) == [64, 96, 3]
    assert logits.label_filename == "labels.txt"
    assert not config.parameters, "clients find the front model by its parameter"
    assert list(config.version_policy.specific.versions) == [7], "that of its front, no other"
    assert not config.version_policy.HasField("latest")


@pytest.mark.triton
def test_a_configuration_that_takes_one_version() -> None:
    text = front_config("a", little_spec(), Serving(), {}, None)
    config = parsed(config_for_version(text, 3))
    assert list(config.version_policy.specific.versions) == [3]
    config.version_policy.CopyFrom(parsed(text).version_policy)
    assert config == parsed(text), "and nothing else is another"
    with pytest.raises(SpecError, match="version 4"):
        config_for_version(config_for_version(text, 3), 4)


@pytest.mark.triton
@pytest.mark.parametrize(("gpu", "kind"), [(None, "KIND_CPU"), (True, "KIND_GPU")])
def test_an_onnx_file_for_the_onnxruntime_backend(
    tmp_path: Path, gpu: bool | None, kind: str
) -> None:
    folder = little_engine(tmp_path)
    manifest = read_manifest(folder)
    spec = replace(manifest.spec, output="class_map")
    network = network_file(folder, manifest, gpu=gpu)
    config = parsed(network_config("n", spec, Serving(), network, front="f", version=1))
    assert (config.platform, config.backend) == ("onnxruntime_onnx", "onnxruntime")
    assert config.default_model_filename == "model.onnx"
    (output,) = config.output
    assert (output.name, output.data_type, list(output.dims)) == ("class_map", 2, [-1, -1])
    (group,) = config.instance_group
    assert group.Kind.Name(group.kind) == kind


def test_what_triton_has_no_backend_for(tmp_path: Path) -> None:
    folder = as_plan(little_engine(tmp_path), backend="tensorrt-rtx")
    with pytest.raises(InputError, match="tensorrt-rtx, which Triton has no backend for"):
        network_file(folder, read_manifest(folder), gpu=None)
    folder = as_plan(folder)
    with pytest.raises(InputError, match="holds a TensorRT plan"):
        network_file(folder, read_manifest(folder), gpu=False)


@pytest.mark.parametrize(
    "wrong", [{"instances": 0}, {"max_batch": 0}, {"delay_ms": -1.0}, {"delay_ms": float("nan")}]
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Serving(**wrong)
