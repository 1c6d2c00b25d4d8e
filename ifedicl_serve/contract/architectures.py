"""Which models a task can be made for and served on, by the names that checkpoints give them."""

# Checkpoint architectures whose decoder layers add the outputs of `self_attn` and `mlp` to the
# residual stream, in Hugging Face's model and in vLLM's alike. A row joins with its tiny
# configuration in tests/engine/in_process/test_architectures.py, which proves that the two agree.
ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen2MoeForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "Phi3ForCausalLM",
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Olmo2ForCausalLM",
    "Olmo3ForCausalLM",
    "OlmoeForCausalLM",
    "GraniteForCausalLM",
    "CohereForCausalLM",
    "Glm4ForCausalLM",
    "Exaone4ForCausalLM",
    "SmolLM3ForCausalLM",
    "Starcoder2ForCausalLM",
)
# Checkpoint architecture -> ours.
ADAPTED_ARCHITECTURES = {name: f"IFedICL{name}" for name in ARCHITECTURES}
