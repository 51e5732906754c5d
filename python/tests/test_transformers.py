"""Models of transformers: the same as from_pretrained makes, bit for bit."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

import sllm_gds.transformers  # noqa: E402

GPU = pytest.param("cuda:0", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")])
DEVICES = ["cpu", GPU]
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128}
LLAMA = {**SIZES, "intermediate_size": 128, "num_key_value_heads": 2}

CONFIGS = {
    "llama": (lambda: transformers.LlamaConfig(**LLAMA), torch.bfloat16),
    "llama-tied": (lambda: transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True), torch.bfloat16),
    "qwen3": (lambda: transformers.Qwen3Config(**LLAMA, head_dim=16), torch.bfloat16),
    "opt": (lambda: transformers.OPTConfig(**SIZES, ffn_dim=128, word_embed_proj_dim=64), torch.float16),
    "gpt2": (lambda: transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=128, bos_token_id=1, eos_token_id=2), torch.float32),
    # transformers joins its experts, whose files have one tensor for each.
    "mixtral": (lambda: transformers.MixtralConfig(**LLAMA, num_local_experts=4), torch.bfloat16),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_is_the_same_as_from_pretrained_makes(tmp_path, name, device):
    make, dtype = CONFIGS[name]
    auto = transformers.AutoModelForCausalLM
    torch.manual_seed(1)
    made = auto.from_config(make(), dtype=dtype)
    made.generation_config.temperature = 0.25
    made.generation_config.do_sample = True
    made.save_pretrained(tmp_path / "hub")
    theirs = auto.from_pretrained(tmp_path / "hub").to(device)
    for number, directory in enumerate((tmp_path / "hub", tmp_path / "ours")):
        if number:
            sllm_gds.save(made, directory, partitions=2)
        ours = sllm_gds.transformers.from_pretrained(auto, directory, device=device, verify=True)
        assert type(ours) is type(theirs) and not ours.training
        check_same(dict(ours.named_parameters()), dict(theirs.named_parameters()))
        check_same(dict(ours.named_buffers()), dict(theirs.named_buffers()))
        assert all(tensor.device == torch.device(device) for tensor in [*ours.parameters(), *ours.buffers()])
        assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()
        if theirs.config.tie_word_embeddings:
            assert ours.get_output_embeddings().weight is ours.get_input_embeddings().weight
        prompt = torch.tensor([[3, 1, 4, 1, 5]], device=device)
        with torch.no_grad():
            assert torch.equal(ours(prompt).logits, theirs(prompt).logits)
            tokens = [model.generate(prompt, do_sample=False, temperature=None, max_new_tokens=3) for model in (ours, theirs)]
        assert torch.equal(*tokens)


def check_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and ours[name].requires_grad == tensor.requires_grad, name
        assert torch.equal(ours[name], tensor), name


def test_inv_freq_stays_float32_and_a_dtype_converts(tmp_path):
    made = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**LLAMA), dtype=torch.bfloat16)
    made.save_pretrained(tmp_path)
    for dtype in (torch.bfloat16, torch.float32):
        model = sllm_gds.transformers.from_pretrained(transformers.AutoModelForCausalLM, tmp_path, device="cpu", dtype=dtype)
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32
        assert model.lm_head.weight.dtype == dtype
        assert torch.equal(model.lm_head.weight.float(), made.lm_head.weight.float())


def test_a_class_of_its_own_and_a_quantized_model(tmp_path):
    made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    made.save_pretrained(tmp_path)
    model = sllm_gds.transformers.from_pretrained(transformers.LlamaForCausalLM, tmp_path, device="cpu")
    assert torch.equal(model.lm_head.weight, made.lm_head.weight)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("{", '{"quantization_config": {"quant_method": "fp8"},', 1))
    with pytest.raises(sllm_gds.RefusedError, match="quantized"):
        sllm_gds.transformers.from_pretrained(transformers.AutoModelForCausalLM, tmp_path, device="cpu")
