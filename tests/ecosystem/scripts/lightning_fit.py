"""`lightning.Trainer.fit` for a few steps, with a loss bound by name and one from `torch.nn`."""

import logging
import warnings

import lightning
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        self.size = torch.nn.Linear(16, 1)
        self.error = torch.nn.MSELoss()

    def training_step(self, batch, index):
        x, y, amount = batch
        hidden = self.body[1](self.body[0](x))
        loss = cross_entropy(self.body[2](hidden), y) + self.error(self.size(hidden).squeeze(1), amount)
        self.log("train_loss", loss)
        print("loss", loss.item())
        return loss

    def validation_step(self, batch, index):
        x, y, _ = batch
        loss = cross_entropy(self.body(x), y, reduction="sum")
        self.log("val_loss", loss)
        print("loss", loss.item())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


lightning.seed_everything(0, verbose=False)
data = TensorDataset(torch.randn(32, 8), torch.randint(0, 4, (32,)), torch.randn(32))
trainer = lightning.Trainer(
    max_epochs=1,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    num_sanity_val_steps=0,
)
trainer.fit(Classifier(), DataLoader(data, batch_size=8), DataLoader(data, batch_size=16))
