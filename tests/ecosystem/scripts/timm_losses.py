"""A step of a small network of timm's for each of its losses."""

import numpy
import timm
import torch
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy, JsdCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

torch.manual_seed(0)
numpy.random.seed(0)
mixed = Mixup(mixup_alpha=0.8, num_classes=10, label_smoothing=0.1)
images, labels = torch.randn(6, 3, 32, 32), torch.randint(0, 10, (6,))
# (the loss, whether its targets are soft, how many views of a batch it wants)
LOSSES = [
    (torch.nn.CrossEntropyLoss(), False, 1),
    (LabelSmoothingCrossEntropy(smoothing=0.1), False, 1),
    (SoftTargetCrossEntropy(), True, 1),
    (BinaryCrossEntropy(smoothing=0.1), False, 1),
    (BinaryCrossEntropy(), True, 1),
    (JsdCrossEntropy(num_splits=3), False, 3),
]
for criterion, soft, views in LOSSES:
    model = timm.create_model("resnet10t", pretrained=False, num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = mixed(images.clone(), labels) if soft else (torch.cat([images] * views), labels)
    for _ in range(2):
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print("loss", loss.item())
