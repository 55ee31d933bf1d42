"""Declarations of the variables of training; `job.config.variables` has the others."""

from __future__ import annotations

from typing import Literal

from pydantic_settings import BaseSettings

from job.config.declaring import var


class TrainingVariables(BaseSettings):
    """Training."""

    train_mode: str = var(
        "lora", "What to train: LoRA adapters (`lora`), all weights (`full`), or some layers (`layers`)."
    )
    num_epochs: int = var(10, "Number of passes over the data.", ge=1)
    max_steps: int | None = var(None, "Number of optimizer steps; overrides NUM_EPOCHS.", ge=1)
    batch_size: int = var(8, "Clips per micro-batch and device.", ge=1)
    tokens_per_batch: int | None = var(None, "Instead of BATCH_SIZE: positions per micro-batch and device.", ge=1)
    gradient_accumulation_steps: int = var(
        1, "Micro-batches per optimizer step.", "GRADIENT_ACCUMULATION_STEPS", "GRAD_ACCUM", ge=1
    )
    learning_rate: float = var(
        1e-5, "Peak learning rate of the trained weights.", "LEARNING_RATE", "LR", "LORA_LR", gt=0, allow_inf_nan=False
    )
    text_projection_lr: float | None = var(
        None,
        "Peak learning rate of text_projection. Default: LEARNING_RATE.",
        "TEXT_PROJECTION_LR",
        "TEXT_PROJ_LR",
        gt=0,
        allow_inf_nan=False,
    )
    train_text_projection: bool = var(True, "Train text_projection (otherwise the base model's accent remains).")
    lora_r: int = var(16, "Rank of the adapters.", ge=1)
    lora_alpha: float = var(32, "The adapters are scaled by LORA_ALPHA / LORA_R.", gt=0, allow_inf_nan=False)
    lora_dropout: float = var(0.0, "Dropout in front of the adapters.", ge=0, lt=1)
    lora_mlp: bool = var(True, "Also put adapters on the talker's MLP.", "LORA_MLP", "TRAIN_MLP_LORA")
    lora_sub_talker: bool = var(True, "Also put adapters on the sub-talker.")
    lora_heads: bool = var(
        True, "Also put adapters on the output heads, so that the model can learn codes the base model rarely uses."
    )
    sub_talker_loss_weight: float = var(
        0.3,
        "Weight of the sub-talker's loss.",
        "SUB_TALKER_LOSS_WEIGHT",
        "SUB_LOSS_WEIGHT",
        ge=0,
        allow_inf_nan=False,
    )
    sub_talker_frame_fraction: float = var(
        0.5, "Share of frames per step on which the sub-talker is trained.", gt=0, le=1
    )
    replace_last_n_layers: int = var(2, "TRAIN_MODE=layers: number of last talker layers to reinitialise.", ge=0)
    add_new_layers: int = var(0, "TRAIN_MODE=layers: number of talker layers to add.", ge=0)
    freeze_original_layers: bool = var(True, "TRAIN_MODE=layers: do not train the other layers.")
    progressive_stages: str | None = var(
        None, "Parts to train and for how many epochs, e.g. `text_projection:2|talker+text_projection:5|all`."
    )
    curriculum: Literal["length", "source"] | None = var(
        None,
        "Easy rows first: `length` sorts by length, `source` keeps the data's order (put the cleanest source first). "
        "Trains on a third of the rows in the first quarter of the run, two thirds in the second, then all.",
    )
    warmup_steps: int | None = var(
        None, "Steps until the peak learning rate. Default: 5 % of all steps, at most 100.", ge=0
    )
    lr_scheduler: Literal["cosine", "linear", "constant"] = var("cosine", "Learning rate schedule after the warm-up.")
    min_lr_ratio: float = var(0.0, "Lowest learning rate of the cosine schedule, as a share of the peak.", ge=0, le=1)
    weight_decay: float = var(0.01, "AdamW's weight decay, applied to weight matrices.", ge=0, allow_inf_nan=False)
    max_grad_norm: float = var(1.0, "Gradients are clipped to this norm; 0 turns clipping off.", ge=0)
    gradient_checkpointing: bool | Literal["selective"] = var(
        False,
        "Trades time for memory: `true` recomputes whole layers in the backward pass, `selective` only their MLPs: two "
        "of their seven matrix products, for about half of the memory.",
        free=True,
    )
    torch_compile: bool = var(
        False,
        "Compile the layers: somewhat faster steps, after a minute or two of compiling. Needs a C compiler "
        "(`WITH_COMPILER` in docs/image.md) and DISTRIBUTED=ddp.",
        free=True,
    )
    optimizer: Literal["adamw", "adamw_fused", "adamw_8bit"] = var(
        "adamw_fused",
        "AdamW variant: `adamw_fused` needs a quarter of the time, `adamw_8bit` a quarter of the moments' memory.",
    )
    master_weights: Literal["fp32", "bf16_with_fp32", "bf16_stochastic"] = var(
        "fp32",
        "Precision of the stored trained weights: `bf16_with_fp32` computes with bf16 weights and keeps fp32 copies "
        "in the optimizer; `bf16_stochastic` keeps them only in bf16, rounds updates stochastically, and halves the "
        "memory for weights and gradients.",
    )
    logging_steps: int = var(10, "Steps between log lines.", ge=1, free=True)
    eval_steps: int | None = var(None, "Steps between validations. Default: once per epoch.", ge=1)
    save_steps: int = var(500, "Steps between checkpoints.", ge=1, free=True)
    push_steps: int = var(
        0,
        "Upload the model as it is every this many steps to the branch `checkpoints` of HF_REPO_ID, while training "
        "continues; 0: never (docs/publishing.md).",
        ge=0,
        free=True,
    )
    save_total_limit: int = var(3, "Number of checkpoints to keep.", ge=1, free=True)
    best_by: Literal["loss", "judges"] = var(
        "loss",
        "What makes `output/best`: the lowest validation loss, or what judges of speech say of that checkpoint and of "
        "those of the last SAVE_TOTAL_LIMIT validations (docs/judging.md).",
    )
    probe_sentences: int = var(
        2,
        "Sentences generated at every validation: a checkpoint that never stops or repeats itself ranks lower; 0 turns "
        "this off.",
        ge=0,
    )
    target_loss: float | None = var(None, "Stop when the talker's validation loss reaches this value.", gt=0)
    early_stopping_patience: int | None = var(
        None,
        "Stop after this many validations without improvement; 0: never. Default: 5 if there are validation rows.",
        ge=0,
    )
    preset: str | None = var(None, "A named set of variables; variables that you set override it.")
    resume: str = var(
        "auto",
        "`auto` resumes from the newest checkpoint of the same run, `never` starts from scratch, a path is a "
        "checkpoint to resume from or an adapter to start from (docs/nightly.md).",
    )
