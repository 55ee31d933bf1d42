"""The tiny base model's text tokenizer: a byte-level BPE that stock `Qwen2Tokenizer` loads.

The generation contract needs two things of it: `<|im_start|>assistant\\n` is exactly three tokens, and
`<|im_end|>\\n<|im_start|>assistant\\n` exactly five (`Qwen3TTSForConditionalGeneration.generate` cuts the text out of
the prompt by these counts). So "assistant" and "user" are single tokens. A few hundred merges of common words bring
the rest near the density of a real tokenizer: a text must have fewer tokens than its speech has frames, or the
streaming layout could not pronounce it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from job.core import files

#: Must be single tokens; first, so that no other merge uses their letters.
ROLES = ("assistant", "user", "system")

_COMMON = """
the and that have for not with you this but from they say her she will one all would there their what out
about who get which when make can like time just him know take people into year your good some could them see
other than then now look only come its over think also back after use two how our work first well way even new
want because any these give day most us is are was were been has had does did here where why very much many
through down before must right too still own under last never same another while again off always next few
little long great high every light night water voice house morning evening river music speak listen hello
der die und in den von zu das mit sich des auf ist im dem nicht ein eine als auch es an werden aus er hat dass
sie nach wird bei einer um am sind noch wie einem so wenn nur oder aber vor zur bis mehr durch man sein wurde
ich du wir ihr mein dein unser haben sehr gut heute morgen abend wasser haus licht nacht stimme musik schon
hier dort dann jetzt immer wieder guten tag danke bitte ja nein kein keine ing tion er en es ed ly ch sch st
"""

#: Common words of the built-in clips' languages (with and without a preceding space, as in any byte-level BPE).
WORDS = tuple(_COMMON.split())

#: Special tokens by their role in config.json; the spellings are those of the released tokenizers.
SPECIALS = {
    "endoftext": "<|endoftext|>",
    "im_start_token_id": "<|im_start|>",
    "im_end_token_id": "<|im_end|>",
    "audio_start": "<|audio_start|>",
    "audio_end": "<|audio_end|>",
    "tts_pad_token_id": "<tts_pad>",
    "tts_bos_token_id": "<tts_text_bos>",
    "tts_eos_token_id": "<tts_text_eod>",
}


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE, in byte order (GPT-2's `bytes_to_unicode`).

    Bytes that print stand for themselves; the others are moved to 256 and up.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    moved = iter(range(256, 512))
    return [chr(byte if byte in printable else next(moved)) for byte in range(256)]


def merges() -> list[tuple[str, str]]:
    """Merge rules, in order of rank: each word is built from its left end, letter by letter."""
    space = byte_symbols()[ord(" ")]
    words = [*ROLES, *(space + word for word in WORDS), *WORDS, *(word.capitalize() for word in WORDS)]
    rules: dict[tuple[str, str], None] = {}
    for word in words:
        for end in range(1, len(word)):
            rules[(word[:end], word[end])] = None
    return list(rules)


def write_tokenizer(directory: Path, reserved: int = 0) -> dict[str, int]:
    """Write vocab.json, merges.txt, tokenizer_config.json, special_tokens_map.json and preprocessor_config.json.

    Args:
        directory: where to.
        reserved: unused special tokens ahead of the others, so that their ids differ from the default's.

    Returns:
        The ids that config.json must repeat (`im_start_token_id` ...), `assistant_token_id`, and `text_vocab_size`.
    """
    rules = merges()
    tokens = [*byte_symbols(), *(left + right for left, right in rules)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    specials = [f"<|reserved_{index}|>" for index in range(reserved)] + list(SPECIALS.values())
    ids = {token: len(vocabulary) + index for index, token in enumerate(specials)}

    files.write_json(directory / "vocab.json", vocabulary)
    files.write_text(
        directory / "merges.txt", "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in rules)
    )
    files.write_json(directory / "tokenizer_config.json", _tokenizer_config(ids))
    names = {"eos_token": SPECIALS["im_end_token_id"], "pad_token": SPECIALS["endoftext"]}
    files.write_json(directory / "special_tokens_map.json", {**names, "additional_special_tokens": list(ids)})
    files.write_json(
        directory / "preprocessor_config.json",
        {
            "padding_side": "left",
            "padding_value": 0.0,
            "processor_class": "Qwen3TTSProcessor",
            "return_attention_mask": True,
        },
    )
    found = {name: ids[token] for name, token in SPECIALS.items() if name.endswith("_id")}
    return {
        **found,
        "assistant_token_id": vocabulary["assistant"],
        # Room above the last id, as released models have (their embedding is padded to a round number).
        "text_vocab_size": -(-(len(vocabulary) + len(ids)) // 64) * 64,
    }


def _tokenizer_config(ids: dict[str, int]) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(index): {"content": token, **flags} for token, index in ids.items()},
        "additional_special_tokens": list(ids),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": SPECIALS["im_end_token_id"],
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": SPECIALS["endoftext"],
        "processor_class": "Qwen3TTSProcessor",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
