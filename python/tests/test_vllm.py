"""The load format for vLLM, below a stand-in with the parts of vLLM's interface that it uses (0.24.0's, and 0.33.0's)."""

import sys
import types

import pytest

torch = pytest.importorskip("torch")

import sllm_gds.vllm  # noqa: E402
from conftest import pattern, write_file  # noqa: E402


class Config:
    def __init__(self, **settings):
        self.load_format, self.device, self.model_loader_extra_config = "sllm_gds", "cpu", {}
        self.__dict__.update(settings)


@pytest.fixture(params=[(), ("model.safetensors.index.json",)], ids=["0.24", "0.33"])
def vllm(monkeypatch, request):
    class DefaultModelLoader:
        counter_before_loading_weights = 0.0

        def __init__(self, load_config):
            if load_config.model_loader_extra_config.keys() - {"num_threads"}:
                raise ValueError("unexpected extra config")
            self.load_config = load_config

        def _prepare_weights(self, folder, subfolder, revision, fall_back_to_pt, allow_patterns_overrides):
            assert self.load_config.load_format == "safetensors"
            return (str(folder), sorted(map(str, folder.glob("*.safetensors"))), True, *request.param)

    formats = {}
    loaders = types.ModuleType("vllm.model_executor.model_loader")
    loaders._LOAD_FORMAT_TO_MODEL_LOADER = formats
    loaders.register_model_loader = lambda name: lambda kind: formats.setdefault(name, kind)
    default = types.ModuleType("vllm.model_executor.model_loader.default_loader")
    default.DefaultModelLoader = DefaultModelLoader
    distributed = types.ModuleType("vllm.distributed")
    distributed.get_tensor_model_parallel_rank, distributed.get_tensor_model_parallel_world_size = lambda: 0, lambda: 1
    for module in (types.ModuleType("vllm"), types.ModuleType("vllm.model_executor"), loaders, default, distributed):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    sllm_gds.vllm.register()
    sllm_gds.vllm.register()
    return formats


def test_weights_come_from_a_stream_under_the_format_of_ours_alone(vllm, tmp_path):
    wanted = {}
    for shard in range(2):
        rows = [(f"{shard}.w{i}", "BF16", [40, 8], pattern(640, 3 * shard + i)) for i in range(3)]
        write_file(tmp_path / f"model-0000{shard + 1}-of-00002.safetensors", rows)
        wanted.update({f"model.{name}": data for name, _, _, data in rows})
    assert list(vllm) == ["sllm_gds"]
    config = Config(model_loader_extra_config={"window_bytes": 4096, "num_threads": 2})
    loader = vllm["sllm_gds"](config)
    assert config.load_format == "sllm_gds" and "window_bytes" in config.model_loader_extra_config, "the caller's stays as it is"
    source = types.SimpleNamespace(
        model_or_path=tmp_path, subfolder=None, revision=None, fall_back_to_pt=True, allow_patterns_overrides=None, prefix="model."
    )
    found = {name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in loader._get_weights_iterator(source)}
    assert found == wanted and loader.counter_before_loading_weights > 0
    with pytest.raises(ValueError, match="unexpected"):
        vllm["sllm_gds"](Config(model_loader_extra_config={"nonsense": 1}))
