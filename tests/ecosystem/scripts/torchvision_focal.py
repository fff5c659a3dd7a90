"""A step with torchvision's focal loss, by both of its names."""

import torch
import torchvision
from torchvision.ops import sigmoid_focal_loss

torch.manual_seed(0)
model = torch.nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x, targets = torch.randn(16, 8), torch.randint(0, 2, (16, 3)).float()
for _ in range(3):
    loss = sigmoid_focal_loss(model(x), targets, reduction="mean")
    loss = loss + torchvision.ops.sigmoid_focal_loss(model(x), targets, alpha=-1, gamma=1.5, reduction="mean")
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print("loss", loss.item())
