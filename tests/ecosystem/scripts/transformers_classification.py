"""A step of each head of a small BERT: one label, a number, several labels, a label a token."""

import torch
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

torch.manual_seed(0)
tokens = torch.randint(0, 100, (4, 8))
SIZE = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def train(model, labels):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print("loss", loss.item())


one = BertConfig(**SIZE, num_labels=3, problem_type="single_label_classification")
train(BertForSequenceClassification(one), torch.tensor([0, 1, 2, 1]))
number = BertConfig(**SIZE, num_labels=1, problem_type="regression")
train(BertForSequenceClassification(number), torch.randn(4))
several = BertConfig(**SIZE, num_labels=3, problem_type="multi_label_classification")
train(BertForSequenceClassification(several), torch.randint(0, 2, (4, 3)).float())
train(BertForTokenClassification(BertConfig(**SIZE, num_labels=5)), torch.randint(0, 5, (4, 8)))
