#!/bin/sh
# On a machine with an NVIDIA GPU and a Python that has PyTorch and torchvision for CUDA: our times, and theirs.
#
#     cargo build -p vgg_lib --features onnx,coreml,hdf5,bench --example bench
#     sh vgg_lib/benches/gpu.sh
#
# Prints milliseconds per step or batch; ours with copying the images to the GPU and the results back.
cd "$(dirname "$0")/../.." || exit 1
export VGG_DEVICE=gpu
for tf32 in 0 1; do
    for work in train infer vgg16-1 vgg16-8 vgg16-64; do
        printf 'vgg_lib tf32=%s %s: ' "$tf32" "$work"
        # Each line on its standard input asks for one timed run.
        (for _ in 1 2 3 4 5 6 7 8; do echo; done) | VGG_TF32=$tf32 target/debug/examples/bench "$work" | tr '\n' ' '
        echo
    done
done
python3 vgg_lib/benches/gpu_torch.py
