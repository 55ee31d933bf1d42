"""Turn recordings into a published, fine-tuned Qwen3-TTS voice."""

__version__ = "0.1.0"
