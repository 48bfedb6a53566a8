"""A peer of `cargo xtask bench`: runs the networks of vgg_lib in another framework and stays warm between runs.

    bench_peers.py PEER WORK --threads N

Prints `ready` after warm-up. Then it answers each line on stdin with a timed run: the milliseconds per step or batch. At
the end of stdin it prints its peak memory as a line of JSON: {"peak_mib": …}.

Every peer is set up as its makers recommend for speed: inference without autograd, constants folded if the framework
can do so, inputs in its preferred layout, compiled steps that include the loss. The outputs (the loss, the logits) are
read. Weights are random, inputs are normally distributed, and no value is small enough to be denormal.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time
import warnings

BATCH = 128
# Steps of one timed run of training.
STEPS = 4
LEARNING_RATE = 0.01
WEIGHT_DECAY = 0.0005
# Of each block: the convolutions and their filters.
BLOCKS = [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)]


def run(step, steps=1, warm_up=3):
    """Answers each line on stdin with the milliseconds of `step`, the mean of `steps` calls."""
    for _ in range(warm_up):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        print(f"{(time.perf_counter() - start) * 1e3 / steps:.4f}", flush=True)
    try:
        status = pathlib.Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = None
    print(json.dumps({"peak_mib": peak}), flush=True)


def torch_model(work):
    """The network, and a batch for it."""
    import torch
    from torch import nn

    cifar = work in ("train", "infer")
    layers, channels = [], 3
    for block, (convolutions, filters) in enumerate(BLOCKS):
        for i in range(convolutions):
            layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU(inplace=not cifar)]
            channels = filters
            if cifar:
                layers.append(nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01))
                if i < convolutions - 1:
                    layers.append(nn.Dropout(0.3 if block == 0 else 0.4))
        layers.append(nn.MaxPool2d(2))
    if cifar:
        layers += [nn.Dropout(0.5), nn.Flatten(), nn.Linear(512, 512), nn.ReLU()]
        layers += [nn.BatchNorm1d(512, eps=1e-3, momentum=0.01), nn.Dropout(0.5), nn.Linear(512, 10)]
    elif work != "features":
        layers.append(nn.Flatten())
        for wide in (512 * 7 * 7, 4096):
            layers += [nn.Linear(wide, 4096), nn.ReLU(inplace=True), nn.Dropout()]
        layers.append(nn.Linear(4096, 1000))
    model = nn.Sequential(*layers)
    for layer in model:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    if cifar:
        return model, torch.randn(BATCH, 3, 32, 32)
    batch = 20 if work == "features" else int(work.removeprefix("vgg16-"))
    return model.eval(), torch.randn(batch, 3, 224, 224)


def torch_peer(work, threads, bf16, channels_last, compiled):
    import torch

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    model, x = torch_model(work)
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    cast = lambda: torch.autocast("cpu", torch.bfloat16, enabled=bf16)

    if work == "train":
        target = torch.randint(10, (BATCH,))
        kernels = [p for p in model.parameters() if p.dim() > 1]
        plain = [p for p in model.parameters() if p.dim() == 1] + [kernels[1], kernels[-1]]
        decayed = [p for i, p in enumerate(kernels) if i not in (1, len(kernels) - 1)]
        groups = [{"params": decayed, "weight_decay": 2 * WEIGHT_DECAY}, {"params": plain}]
        optimizer = torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=0.9, nesterov=True, fused=True)
        loss_of = lambda x, target: torch.nn.functional.cross_entropy(model(x), target)
        if compiled:
            loss_of = torch.compile(loss_of)

        def step():
            optimizer.zero_grad(set_to_none=True)
            with cast():
                loss = loss_of(x, target)
            loss.backward()
            optimizer.step()
            return loss.item()

        return run(step, STEPS)

    model.eval()
    if compiled:
        import torch._inductor.config

        torch._inductor.config.freezing = True  # weights become constants, batch norm is folded, layouts are chosen
        model = torch.compile(model)

    def step():
        with torch.inference_mode() if not compiled else torch.no_grad(), cast():
            return model(x).float().numpy()

    run(step)


def keras_peer(threads, bf16):
    """The training step. Not with XLA: on a CPU a step then takes several times as long."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import tensorflow as tf
    from keras import layers, regularizers

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    if bf16:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    l2 = regularizers.L2(WEIGHT_DECAY)
    net = [keras.Input((32, 32, 3))]
    for block, (convolutions, filters) in enumerate(BLOCKS):
        for i in range(convolutions):
            penalty = None if (block, i) == (0, 1) else l2
            conv = layers.Conv2D(filters, 3, padding="same", activation="relu", kernel_regularizer=penalty)
            net += [conv, layers.BatchNormalization()]
            if i < convolutions - 1:
                net.append(layers.Dropout(0.3 if block == 0 else 0.4))
        net.append(layers.MaxPooling2D(2))
    net += [layers.Dropout(0.5), layers.Flatten()]
    net += [layers.Dense(512, activation="relu", kernel_regularizer=l2), layers.BatchNormalization()]
    net += [layers.Dropout(0.5), layers.Dense(10, dtype="float32")]
    model = keras.Sequential(net)
    assert model.count_params() == 15_001_418
    model.compile(
        keras.optimizers.SGD(LEARNING_RATE, momentum=0.9, nesterov=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    x = tf.random.normal((BATCH, 32, 32, 3))
    y = tf.random.uniform((BATCH,), maxval=10, dtype=tf.int32)
    run(lambda: model.train_on_batch(x, y), STEPS)


def onnx_file(work, folder):
    """The network as PyTorch exports it, and a batch."""
    import torch

    model, x = torch_model(work)
    path = os.path.join(folder, "model.onnx")
    torch.onnx.export(model.eval(), (x,), path, dynamo=False, input_names=["x"], output_names=["y"])
    return path, x.numpy()


def onnxruntime_peer(work, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        path, x = onnx_file(work, folder)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    run(lambda: session.run(None, {"x": x}))


def openvino_peer(work, threads, precision):
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    with tempfile.TemporaryDirectory() as folder:
        path, x = onnx_file(work, folder)
        request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
    run(lambda: request.infer({"x": x})["y"])


PEERS = {
    "torch-f32": lambda work, threads: torch_peer(work, threads, False, False, False),
    "torch-f32-channels-last": lambda work, threads: torch_peer(work, threads, False, True, False),
    "torch-f32-channels-last-compiled": lambda work, threads: torch_peer(work, threads, False, True, True),
    "torch-bf16-channels-last": lambda work, threads: torch_peer(work, threads, True, True, False),
    "torch-bf16-channels-last-compiled": lambda work, threads: torch_peer(work, threads, True, True, True),
    "keras-f32": lambda work, threads: keras_peer(threads, False),
    "keras-bf16": lambda work, threads: keras_peer(threads, True),
    "onnxruntime-f32": onnxruntime_peer,
    "openvino-f32": lambda work, threads: openvino_peer(work, threads, "f32"),
    "openvino-bf16": lambda work, threads: openvino_peer(work, threads, "bf16"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("work", choices=["train", "infer", "vgg16-8", "vgg16-1", "features"])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    # Read when a framework is imported.
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no compiler processes that stay beside the measured one
    warnings.simplefilter("ignore")
    PEERS[args.peer](args.work, args.threads)


if __name__ == "__main__":
    main()
