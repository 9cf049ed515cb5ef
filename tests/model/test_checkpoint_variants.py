"""B0 to B5: every spelling of one set of weights reads as the same tensors, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from segformer_deploy.model.checkpoint import load_checkpoint, model_from_checkpoint
from segformer_deploy.model.variants import VARIANTS
from tests.model.checkpoint_builders import new_names

# The authors' names for the parts of a block, written out from their repository's description.
AUTHORS = {
    "layer_norm_1": "norm1",
    "layer_norm_2": "norm2",
    "attention.self.query": "attn.q",
    "attention.self.sr": "attn.sr",
    "attention.self.layer_norm": "attn.norm",
    "attention.output.dense": "attn.proj",
    "mlp.dense1": "mlp.fc1",
    "mlp.dense2": "mlp.fc2",
    "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
}
HEAD = {
    "linear_fuse": "linear_fuse.conv",
    "batch_norm": "linear_fuse.bn",
    "classifier": "linear_pred",
}


def authors_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' saved names -> the authors', keys and values joined into `attn.kv`."""
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        *path, kind = name.split(".")
        if path[0] == "decode_head":
            target = f"linear_c{int(path[2]) + 1}.proj" if path[1] == "linear_c" else HEAD[path[1]]
            renamed[f"decode_head.{target}.{kind}"] = value
            continue
        stage = int(path[3]) + 1
        if path[2] == "patch_embeddings":
            part = {"proj": "proj", "layer_norm": "norm"}[path[4]]
            renamed[f"backbone.patch_embed{stage}.{part}.{kind}"] = value
        elif path[2] == "layer_norm":
            renamed[f"backbone.norm{stage}.{kind}"] = value
        else:
            block, rest = f"backbone.block{stage}.{path[4]}", ".".join(path[5:])
            if rest == "attention.self.value":
                continue
            if rest == "attention.self.key":
                both = [value, state[name.replace("self.key", "self.value")]]
                renamed[f"{block}.attn.kv.{kind}"] = torch.cat(both)
            else:
                renamed[f"{block}.{AUTHORS[rest]}.{kind}"] = value
    return renamed


def transformers_folder(variant: str, folder: Path) -> Any:
    import transformers

    config = VARIANTS[variant]
    torch.manual_seed(0)
    model = transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(
            hidden_sizes=list(config.widths),
            depths=list(config.depths),
            decoder_hidden_size=config.head_channels,
            num_attention_heads=list(config.heads),
            num_labels=150,
        )
    )
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "variant",
    [v if v == "b0" else pytest.param(v, marks=pytest.mark.slow) for v in sorted(VARIANTS)],
)
def test_three_spellings_one_network(variant: str, tmp_path: Path) -> None:
    model = transformers_folder(variant, tmp_path / "old")
    state = load_file(tmp_path / "old" / "model.safetensors")
    assert any(name.startswith("segformer.encoder.block.0.0.attention.self") for name in state)
    (tmp_path / "new").mkdir()
    save_file(new_names(state), tmp_path / "new" / "model.safetensors")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    (tmp_path / "new" / "config.json").write_text(json.dumps(config))
    torch.save({"state_dict": authors_names(state), "meta": {}}, tmp_path / "authors.pth")
    loaded = [
        load_checkpoint(tmp_path / name, variant=variant, classes=150)
        for name in ("old", "new", "authors.pth")
    ]
    parameters = sum(p.numel() for p in model.parameters())
    for one in loaded:
        assert set(one.state) == set(state)
        assert all(torch.equal(one.state[name], state[name]) for name in state)
        assert sum(p.numel() for p in model_from_checkpoint(one).parameters()) == parameters
    print(f"{variant}: {parameters} parameters in all three spellings")
