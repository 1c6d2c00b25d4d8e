"""vLLM's classes of the architectures that can be adapted."""

# Of `ifedicl_serve.contract.architectures`: vLLM's class and decoder layer.
MODELS = "vllm.model_executor.models"
DECODERS = {
    "LlamaForCausalLM": ("llama", "LlamaDecoderLayer"),
    "MistralForCausalLM": ("mistral", "MistralDecoderLayer"),
    "Qwen2ForCausalLM": ("qwen2", "Qwen2DecoderLayer"),
    "Qwen2MoeForCausalLM": ("qwen2_moe", "Qwen2MoeDecoderLayer"),
    "Qwen3ForCausalLM": ("qwen3", "Qwen3DecoderLayer"),
    "Qwen3MoeForCausalLM": ("qwen3_moe", "Qwen3MoeDecoderLayer"),
    "Phi3ForCausalLM": ("phi3", None),  # a LlamaForCausalLM
    "GemmaForCausalLM": ("gemma", "GemmaDecoderLayer"),
    "Gemma2ForCausalLM": ("gemma2", "Gemma2DecoderLayer"),
    "Gemma3ForCausalLM": ("gemma3", "Gemma3DecoderLayer"),
    "OlmoeForCausalLM": ("olmoe", "OlmoeDecoderLayer"),
    "GraniteForCausalLM": ("granite", "GraniteDecoderLayer"),
    "CohereForCausalLM": ("commandr", "CohereDecoderLayer"),
    "Glm4ForCausalLM": ("glm4", "Glm4DecoderLayer"),
    "Exaone4ForCausalLM": ("exaone4", "Exaone4DecoderLayer"),
}
# Those that vLLM runs through Transformers, whose layers name the sites.
THROUGH_TRANSFORMERS = (
    "Olmo2ForCausalLM",
    "Olmo3ForCausalLM",
    "SmolLM3ForCausalLM",
    "Starcoder2ForCausalLM",
)
CAUSAL_LMS = (
    *(f"{MODELS}.{module}:{name}" for name, (module, _) in DECODERS.items()),
    f"{MODELS}.transformers.base:Base",
)
