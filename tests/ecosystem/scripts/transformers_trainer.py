"""`transformers.Trainer` for three steps, with label smoothing."""

import os
import sys
import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

torch.manual_seed(0)
examples = [{"input_ids": row, "labels": row.clone()} for row in torch.randint(0, 64, (24, 12))]
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
)
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=3,
        per_device_train_batch_size=8,
        label_smoothing_factor=0.1,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    with open(os.devnull, "w") as quiet:
        shown, sys.stdout = sys.stdout, quiet
        trainer = Trainer(model=model, args=arguments, train_dataset=examples)
        result = trainer.train()
        sys.stdout = shown
for entry in trainer.state.log_history[:-1]:
    print("logged", entry["loss"])
print("loss", result.training_loss)
