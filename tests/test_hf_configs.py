"""config.json with the fields that the releases themselves have: each makes the config that the model's card describes, or is refused by name."""

import math

import pytest

from pikojax.config import GPTConfig, LlamaConfig, UserError
from pikojax.formats.hf_config import to_config
from pikojax.models.bert import BertConfig

LLAMA3 = dict(architectures=["LlamaForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=128000, eos_token_id=[128001, 128008, 128009],
              hidden_act="silu", initializer_range=0.02, max_position_embeddings=131072, mlp_bias=False, model_type="llama", num_key_value_heads=8,
              pretraining_tp=1, rms_norm_eps=1e-05, rope_theta=500000.0, torch_dtype="bfloat16", transformers_version="4.45.0.dev0", use_cache=True,
              vocab_size=128256)  # fmt: skip
STRETCHED = dict(high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=8192, rope_type="llama3")
QWEN = dict(attention_dropout=0.0, bos_token_id=151643, eos_token_id=151645, hidden_act="silu", initializer_range=0.02, rms_norm_eps=1e-06, rope_theta=1000000.0,
            torch_dtype="bfloat16", use_cache=True, use_sliding_window=False, vocab_size=151936)  # fmt: skip
PHI3 = dict(_name_or_path="Phi-3-mini-4k-instruct", architectures=["Phi3ForCausalLM"], attention_bias=False, attention_dropout=0.0,
            auto_map={"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}, bos_token_id=1, embd_pdrop=0.0,
            eos_token_id=32000, hidden_act="silu", hidden_size=3072, initializer_range=0.02, intermediate_size=8192, max_position_embeddings=4096,
            model_type="phi3", num_attention_heads=32, num_hidden_layers=32, num_key_value_heads=32, original_max_position_embeddings=4096, pad_token_id=32000,
            resid_pdrop=0.0, rms_norm_eps=1e-05, rope_scaling=None, rope_theta=10000.0, sliding_window=2047, tie_word_embeddings=False,
            torch_dtype="bfloat16", transformers_version="4.40.2", use_cache=True, vocab_size=32064)  # fmt: skip
RELEASES = {
    "Llama 3.1 8B": (LLAMA3 | dict(hidden_size=4096, intermediate_size=14336, num_attention_heads=32, num_hidden_layers=32, tie_word_embeddings=False,
        rope_scaling=dict(factor=8.0, **STRETCHED)),
        LlamaConfig(d_model=4096, n_layers=32, n_heads=32, n_kv_heads=8, d_hidden=14336, vocab_size=128256, context=131072, tie=False, rope_base=5e5,
        rope_scaling="llama3", rope_factor=8.0, rope_original_context=8192)),
    "Llama 3.2 1B": (LLAMA3 | dict(head_dim=64, hidden_size=2048, intermediate_size=8192, num_attention_heads=32, num_hidden_layers=16,
        tie_word_embeddings=True, rope_scaling=dict(factor=32.0, **STRETCHED)),
        LlamaConfig(d_model=2048, n_layers=16, n_heads=32, n_kv_heads=8, d_hidden=8192, vocab_size=128256, context=131072, rope_base=5e5,
        rope_scaling="llama3", rope_factor=32.0, rope_original_context=8192)),
    "Mistral 7B v0.3": (dict(architectures=["MistralForCausalLM"], attention_dropout=0.0, bos_token_id=1, eos_token_id=2, hidden_act="silu", hidden_size=4096,
        initializer_range=0.02, intermediate_size=14336, max_position_embeddings=32768, model_type="mistral", num_attention_heads=32, num_hidden_layers=32,
        num_key_value_heads=8, rms_norm_eps=1e-05, rope_theta=1000000.0, sliding_window=None, tie_word_embeddings=False, torch_dtype="bfloat16",
        transformers_version="4.42.0.dev0", use_cache=True, vocab_size=32768),
        LlamaConfig(d_model=4096, n_layers=32, n_heads=32, n_kv_heads=8, d_hidden=14336, vocab_size=32768, context=32768, tie=False, rope_base=1e6)),
    "Qwen2.5 0.5B": (QWEN | dict(architectures=["Qwen2ForCausalLM"], hidden_size=896, intermediate_size=4864, max_position_embeddings=32768, max_window_layers=21,
        model_type="qwen2", num_attention_heads=14, num_hidden_layers=24, num_key_value_heads=2, sliding_window=32768, tie_word_embeddings=True,
        transformers_version="4.43.1"),
        LlamaConfig(d_model=896, n_layers=24, n_heads=14, n_kv_heads=2, d_hidden=4864, vocab_size=151936, context=32768, norm_eps=1e-6, qkv_bias=True, rope_base=1e6)),
    "Qwen3 0.6B": (QWEN | dict(architectures=["Qwen3ForCausalLM"], attention_bias=False, head_dim=128, hidden_size=1024, intermediate_size=3072,
        max_position_embeddings=40960, max_window_layers=28, model_type="qwen3", num_attention_heads=16, num_hidden_layers=28, num_key_value_heads=8,
        rope_scaling=None, sliding_window=None, tie_word_embeddings=True, transformers_version="4.51.0"),
        LlamaConfig(d_model=1024, n_layers=28, n_heads=16, n_kv_heads=8, d_head=128, d_hidden=3072, vocab_size=151936, context=40960, norm_eps=1e-6, qk_norm=True,
        rope_base=1e6)),
    "Qwen3 30B-A3B": (QWEN | dict(architectures=["Qwen3MoeForCausalLM"], attention_bias=False, decoder_sparse_step=1, head_dim=128, hidden_size=2048,
        intermediate_size=6144, max_position_embeddings=40960, max_window_layers=48, mlp_only_layers=[], model_type="qwen3_moe", moe_intermediate_size=768,
        norm_topk_prob=True, num_attention_heads=32, num_experts=128, num_experts_per_tok=8, num_hidden_layers=48, num_key_value_heads=4,
        output_router_logits=False, rope_scaling=None, router_aux_loss_coef=0.001, sliding_window=None, tie_word_embeddings=False, transformers_version="4.51.0"),
        LlamaConfig(d_model=2048, n_layers=48, n_heads=32, n_kv_heads=4, d_head=128, d_hidden=6144, vocab_size=151936, context=40960, norm_eps=1e-6, qk_norm=True,
        rope_base=1e6, tie=False, n_experts=128, n_experts_used=8, d_expert=768)),
    "Mixtral 8x7B": (dict(architectures=["MixtralForCausalLM"], attention_dropout=0.0, bos_token_id=1, eos_token_id=2, hidden_act="silu", hidden_size=4096,
        initializer_range=0.02, intermediate_size=14336, max_position_embeddings=32768, model_type="mixtral", num_attention_heads=32, num_experts_per_tok=2,
        num_hidden_layers=32, num_key_value_heads=8, num_local_experts=8, output_router_logits=False, rms_norm_eps=1e-05, rope_theta=1000000.0,
        router_aux_loss_coef=0.02, sliding_window=None, tie_word_embeddings=False, torch_dtype="bfloat16", transformers_version="4.36.0.dev0", use_cache=True,
        vocab_size=32000),
        LlamaConfig(d_model=4096, n_layers=32, n_heads=32, n_kv_heads=8, d_hidden=14336, vocab_size=32000, context=32768, tie=False, rope_base=1e6, n_experts=8)),
    "SmolLM2 135M": (dict(architectures=["LlamaForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1, eos_token_id=2, hidden_act="silu",
        hidden_size=576, initializer_range=0.041666666666666664, intermediate_size=1536, is_llama_config=True, max_position_embeddings=8192, mlp_bias=False,
        model_type="llama", num_attention_heads=9, num_hidden_layers=30, num_key_value_heads=3, pad_token_id=2, pretraining_tp=1, rms_norm_eps=1e-05,
        rope_interleaved=False, rope_scaling=None, rope_theta=100000, tie_word_embeddings=True, torch_dtype="bfloat16", transformers_version="4.42.3",
        **{"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}}}, use_cache=True, vocab_size=49152),
        LlamaConfig(d_model=576, n_layers=30, n_heads=9, n_kv_heads=3, d_hidden=1536, vocab_size=49152, context=8192, rope_base=1e5)),
    "Phi-3 mini 4k": (PHI3, LlamaConfig(d_model=3072, n_layers=32, n_heads=32, d_hidden=8192, vocab_size=32064, context=4096, tie=False, window=2047)),
    "Gemma 2 2B": (dict(architectures=["Gemma2ForCausalLM"], attention_bias=False, attention_dropout=0.0, attn_logit_softcapping=50.0, bos_token_id=2,
        cache_implementation="hybrid", eos_token_id=1, final_logit_softcapping=30.0, head_dim=256, hidden_act="gelu_pytorch_tanh",
        hidden_activation="gelu_pytorch_tanh", hidden_size=2304, initializer_range=0.02, intermediate_size=9216, max_position_embeddings=8192,
        model_type="gemma2", num_attention_heads=8, num_hidden_layers=26, num_key_value_heads=4, pad_token_id=0, query_pre_attn_scalar=256, rms_norm_eps=1e-06,
        rope_theta=10000.0, sliding_window=4096, torch_dtype="float32", transformers_version="4.42.4", use_cache=True, vocab_size=256000),
        LlamaConfig(d_model=2304, n_layers=26, n_heads=8, n_kv_heads=4, d_head=256, d_hidden=9216, vocab_size=256000, context=8192, norm_eps=1e-6,
        activation="gelu_tanh", post_norms=True, window=4096, global_every=2, attention_scale=1 / 16, attention_softcap=50.0, softcap=30.0,
        embed_scale=math.sqrt(2304))),
    "Gemma 3 1B": (dict(architectures=["Gemma3ForCausalLM"], attention_bias=False, attention_dropout=0.0, attn_logit_softcapping=None, bos_token_id=2,
        cache_implementation="hybrid", eos_token_id=[1, 106], final_logit_softcapping=None, head_dim=256, hidden_activation="gelu_pytorch_tanh",
        hidden_size=1152, initializer_range=0.02, intermediate_size=6912, max_position_embeddings=32768, model_type="gemma3_text", num_attention_heads=4,
        num_hidden_layers=26, num_key_value_heads=1, pad_token_id=0, query_pre_attn_scalar=256, rms_norm_eps=1e-06, rope_local_base_freq=10000,
        rope_scaling=None, rope_theta=1000000, sliding_window=512, sliding_window_pattern=6, torch_dtype="bfloat16", transformers_version="4.50.0.dev0",
        use_cache=True, vocab_size=262144),
        LlamaConfig(d_model=1152, n_layers=26, n_heads=4, n_kv_heads=1, d_head=256, d_hidden=6912, vocab_size=262144, context=32768, norm_eps=1e-6,
        activation="gelu_tanh", qk_norm=True, post_norms=True, window=512, global_every=6, attention_scale=1 / 16, embed_scale=math.sqrt(1152), rope_base=1e6,
        rope_base_local=1e4)),
    "GPT-2": (dict(activation_function="gelu_new", architectures=["GPT2LMHeadModel"], attn_pdrop=0.1, bos_token_id=50256, embd_pdrop=0.1, eos_token_id=50256,
        initializer_range=0.02, layer_norm_epsilon=1e-05, model_type="gpt2", n_ctx=1024, n_embd=768, n_head=12, n_layer=12, n_positions=1024, resid_pdrop=0.1,
        summary_activation=None, summary_first_dropout=0.1, summary_proj_to_labels=True, summary_type="cls_index", summary_use_proj=True,
        task_specific_params={"text-generation": {"do_sample": True, "max_length": 50}}, vocab_size=50257),
        GPTConfig(d_model=768, n_layers=12, n_heads=12, vocab_size=50257, context=1024, bias=True, activation="gelu_tanh")),
    "all-MiniLM-L6-v2": (dict(_name_or_path="nreimers/MiniLM-L6-H384-uncased", architectures=["BertModel"], attention_probs_dropout_prob=0.1,
        gradient_checkpointing=False, hidden_act="gelu", hidden_dropout_prob=0.1, hidden_size=384, initializer_range=0.02, intermediate_size=1536,
        layer_norm_eps=1e-12, max_position_embeddings=512, model_type="bert", num_attention_heads=12, num_hidden_layers=6, pad_token_id=0,
        position_embedding_type="absolute", transformers_version="4.8.2", type_vocab_size=2, use_cache=True, vocab_size=30522), BertConfig()),
    "SmolLM3 3B": (dict(architectures=["SmolLM3ForCausalLM"], attention_bias=False, attention_dropout=0.0, eos_token_id=128012, hidden_act="silu",
        hidden_size=2048, initializer_range=0.02, intermediate_size=11008, max_position_embeddings=65536, max_window_layers=28, mlp_bias=False,
        model_type="smollm3", no_rope_layer_interval=4, no_rope_layers=[1, 1, 1, 0] * 9, num_attention_heads=16, num_hidden_layers=36, num_key_value_heads=4,
        rms_norm_eps=1e-06, rope_scaling=None, rope_theta=5000000.0, use_cache=False, use_sliding_window=False, vocab_size=128256),
        LlamaConfig(d_model=2048, n_layers=36, n_heads=16, n_kv_heads=4, d_hidden=11008, vocab_size=128256, context=65536, norm_eps=1e-6, rope_base=5e6, nope_every=4)),
    "Phi-3 mini 128k": (PHI3 | dict(max_position_embeddings=131072, sliding_window=262144,
        rope_scaling=dict(long_factor=[1.07] * 48, short_factor=[1.1] * 48, type="longrope")),
        LlamaConfig(d_model=3072, n_layers=32, n_heads=32, d_hidden=8192, vocab_size=32064, context=131072, tie=False, window=262144, rope_scaling="longrope",
        rope_factor=32.0, rope_original_context=4096, rope_divisors=(1.1,) * 48, rope_long_divisors=(1.07,) * 48)),
    "Phi-4 mini": (PHI3 | dict(max_position_embeddings=131072, sliding_window=262144, full_attn_mod=1, interpolate_factor=1, lm_head_bias=False, mlp_bias=False,
        num_attention_heads=24, num_key_value_heads=8, partial_rotary_factor=0.75, tie_word_embeddings=True, vocab_size=200064,
        rope_scaling=dict(long_factor=[1.07] * 48, short_factor=[1.0] * 48, type="longrope")),
        LlamaConfig(d_model=3072, n_layers=32, n_heads=24, n_kv_heads=8, d_hidden=8192, vocab_size=200064, context=131072, window=262144, rope_scaling="longrope",
        rope_fraction=0.75, rope_factor=32.0, rope_original_context=4096, rope_divisors=(1.0,) * 48, rope_long_divisors=(1.07,) * 48)),
}  # fmt: skip
REFUSED = {
    "Gemma 3 4B": (dict(architectures=["Gemma3ForConditionalGeneration"], boi_token_index=255999, eoi_token_index=256000, eos_token_id=[1, 106],
        image_token_index=262144, initializer_range=0.02, mm_tokens_per_image=256, model_type="gemma3", text_config=dict(hidden_size=2560), torch_dtype="bfloat16",
        transformers_version="4.50.0.dev0", vision_config=dict(hidden_size=1152)), "'gemma3'"),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_s_config_is_what_its_card_says(name):
    raw, wanted = RELEASES[name]
    assert to_config(raw) == wanted


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_name(name):
    raw, part = REFUSED[name]
    with pytest.raises(UserError, match=part) as caught:
        to_config(raw)
    assert "\n" not in str(caught.value)
