"""Three steps of two small language models, with the loss that transformers computes from `labels`."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
llama = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
)
gpt2 = GPT2LMHeadModel(
    GPT2Config(vocab_size=128, n_positions=32, n_embd=32, n_layer=2, n_head=4, attn_implementation="eager")
)
for model in (llama, gpt2):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        tokens = torch.randint(0, 128, (4, 16))
        labels = tokens.clone()
        labels[:, :3] = -100  # the prompt
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print("loss", loss.item())
