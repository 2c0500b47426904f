"""A process that takes training steps in PyTorch; `benchmarks.steps` starts it, with a Python that has torch and timm.

    PYTHON benchmarks/pytorch/steps.py NETWORK WIDTH SIDE BATCH WORK BF16 STEPS

It prints "ready PARAMETERS", and then, for every line that it reads, the seconds that a step takes. It imports nothing
of this project. A step is what `mlcm train` does in one: forward and backward pass, clipping by the global norm, AdamW,
and the moving average of the weights, with the best settings that PyTorch offers for it.
"""

import sys
import time

import timm
import torch
from torch import nn

POINTS = 68
NAMES = {
    ("mobilenet_v2", "0.5"): "mobilenetv2_050",
    ("mobilenet_v2", "1.0"): "mobilenetv2_100",
    ("efficientnet_b0", "1.0"): "efficientnet_b0",
    ("mobilevit_v2", "0.5"): "mobilevitv2_050",
    ("resnet50", "1.0"): "resnet50",
    ("swin_v2_b", "1.0"): "swinv2_base_window16_256",
}


class Block(nn.Module):
    """Residual block of two 3×3 convolutions."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = unit(cin, cout, 3, stride), nn.Sequential(*unit(cout, cout, 3, 1)[:2])
        self.short = nn.Sequential(*unit(cin, cout, 1, stride)[:2]) if stride > 1 or cin != cout else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, cin, H, W] -> [B, cout, H / stride, W / stride]."""
        return torch.relu(self.second(self.first(x)) + self.short(x))


def unit(cin: int, cout: int, size: int, stride: int) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    conv = nn.Conv2d(cin, cout, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout), nn.ReLU())


class Tiny(nn.Module):
    """The teacher of configs/tiny.py: dense ResNet, heatmap head with a learnt prior and soft-argmax."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [unit(3, 16, 3, 2), unit(16, 16, 3, 2)]
        cin = 16
        for stage, cout in enumerate((16, 32, 64)):
            layers += [Block(cin, cout, 2 if stage else 1), Block(cout, cout, 1)]
            cin = cout
        self.backbone = nn.Sequential(*layers)
        up = nn.Upsample(scale_factor=2)
        self.up = nn.Sequential(up, unit(64, 16, 3, 1), up, unit(16, 16, 3, 1))
        self.maps = nn.Conv2d(16, POINTS, 1)
        self.centre = nn.Parameter(torch.full((POINTS, 2), 0.5))
        self.log_temperature = nn.Parameter(torch.tensor(-1.6))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] -> [B, 64, S / 16, S / 16]."""
        return self.backbone(x)

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """Features -> landmarks [B, 2K]."""
        logits = self.maps(self.up(features)).float() / self.log_temperature.exp()
        b, k, h, w = logits.shape
        x, y = ((torch.arange(n, device=logits.device) + 0.5) / n for n in (w, h))
        near = (x - self.centre[:, :1]) ** 2  # [K, w]
        far = (y - self.centre[:, 1:]) ** 2
        logits = logits - (near[:, None, :] + far[:, :, None]) / (2 * 0.15**2)
        maps = logits.reshape(b, k, h * w).softmax(-1).reshape(b, k, h, w)
        return torch.stack([(maps.sum(2) * x).sum(-1), (maps.sum(3) * y).sum(-1)], -1).reshape(b, 2 * k)


def network(name: str, width: str) -> nn.Module:
    """A network with `forward_features` and `forward_head`."""
    if name == "tiny":
        return Tiny()
    return timm.create_model(NAMES[name, width], num_classes=2 * POINTS)


def main(name: str, width: str, side: str, batch: str, work: str, bf16: str, steps: str) -> None:
    """Prepares the step, and takes it as often as it is told to."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    student, teacher = (network(name, width).to(device, memory_format=torch.channels_last) for _ in range(2))
    teacher.requires_grad_(False).eval()
    params = list(student.parameters())
    average = [p.detach().clone() for p in params]
    decayed = [p for p in params if p.ndim > 1]
    groups = [{"params": decayed}, {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=1e-4, fused=True)
    shape = int(batch), 3, int(side), int(side)
    rgb, thermal = (torch.rand(shape, device=device).to(memory_format=torch.channels_last) for _ in range(2))
    target = torch.rand(int(batch), 2 * POINTS, device=device)

    def loss_of() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=bf16 == "1"):
            features = student.forward_features(thermal)
            loss = (student.forward_head(features).float() - target).abs().mean()
            if work == "ktl":
                with torch.no_grad():
                    given = teacher.forward_features(rgb)
                loss = loss + (student.forward_head(given).float() - target).abs().mean()
                loss = loss + (teacher.forward_head(features).float() - target).abs().mean()
        return loss

    compiled = torch.compile(loss_of) if device == "cuda" else loss_of

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        compiled().backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
        optimizer.step()
        torch._foreach_lerp_(average, params, 0.001)

    def synchronise() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        step()
    synchronise()
    print("ready", sum(p.numel() for p in params), torch.__version__, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(steps)):
            step()
        synchronise()
        print((time.perf_counter() - began) / int(steps), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
