"""PyTorch's times on a GPU for the work of gpu.sh: milliseconds per step or batch, in f32 and TF32, NCHW and NHWC."""

import time

import torch
import torchvision

PLAN = [64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool"]
DROPOUT = {1: 0.3, 3: 0.4, 5: 0.4, 6: 0.4, 8: 0.4, 9: 0.4, 11: 0.4, 12: 0.4}  # after these convolutions


def cifar_vgg16():
    layers, channels, number = [], 3, 0
    for width in PLAN:
        if width == "pool":
            layers.append(torch.nn.MaxPool2d(2))
            continue
        number += 1
        layers += [torch.nn.Conv2d(channels, width, 3, padding=1), torch.nn.ReLU(), torch.nn.BatchNorm2d(width, eps=1e-3)]
        layers += [torch.nn.Dropout(DROPOUT[number])] if number in DROPOUT else []
        channels = width
    head = [torch.nn.Dropout(0.5), torch.nn.Flatten(), torch.nn.Linear(512, 512), torch.nn.ReLU()]
    head += [torch.nn.BatchNorm1d(512), torch.nn.Dropout(0.5), torch.nn.Linear(512, 10)]
    return torch.nn.Sequential(*layers, *head).cuda()


def milliseconds(work, runs=50, warm_up=20):
    for _ in range(warm_up):
        work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(runs):
        work()
    torch.cuda.synchronize()
    return f"{(time.perf_counter() - start) / runs * 1e3:.2f} ms"


def training_step(model, layout):
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, nesterov=True)
    images, labels = torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,), device="cuda")

    def step():
        optimizer.zero_grad(set_to_none=True)
        x = images.cuda().contiguous(memory_format=layout)
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def inference(model, layout, n, size):
    x = torch.randn(n, 3, size, size, device="cuda").contiguous(memory_format=layout)
    return lambda: model(x)


print(torch.__version__, torch.cuda.get_device_name())
for tf32 in (False, True):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    for name, layout in [("NCHW", torch.contiguous_format), ("NHWC", torch.channels_last)]:
        model = cifar_vgg16().to(memory_format=layout)
        print(f"torch tf32={tf32} {name} train: {milliseconds(training_step(model, layout))}", flush=True)
        with torch.no_grad():
            print(f"torch tf32={tf32} {name} infer: {milliseconds(inference(model.eval(), layout, 128, 32))}", flush=True)
            vgg16 = torchvision.models.vgg16().cuda().eval().to(memory_format=layout)
            for n in (1, 8, 64):
                time_of = milliseconds(inference(vgg16, layout, n, 224), 20, 5)
                print(f"torch tf32={tf32} {name} vgg16-{n}: {time_of}", flush=True)
