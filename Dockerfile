# One image for every platform; all that differs is which JAX is installed:
#
#   docker build --build-arg ACCELERATOR=tpu --tag IMAGE .      # cpu, tpu or gpu
#   docker run --rm --volume /data:/data IMAGE --config=configs/folder.py \
#     --workdir=/data/run --config.data.path=/data/pictures     # gpu: --gpus=all
#
# Other commands: docker run --entrypoint python IMAGE -m simclr_jax.knn ...
FROM python:3.12-slim-bookworm

ARG ACCELERATOR=cpu

# Runs write to the volumes that are mounted, not to the image. As a number, which
# Kubernetes can check (runAsNonRoot).
RUN useradd --create-home --uid 1000 simclr
WORKDIR /opt/simclr_jax

# Before the code, so that a change there does not install everything again. The
# GPU build brings CUDA 13 itself: the host needs the driver and nothing else.
COPY requirements.txt requirements-no-tf.txt ./
RUN case "$ACCELERATOR" in \
      cpu | tpu) extra=$ACCELERATOR ;; \
      gpu) extra=cuda13 ;; \
      *) echo "error: ACCELERATOR=$ACCELERATOR: cpu, tpu or gpu" >&2; exit 2 ;; \
    esac \
    && sed -i "s/^jax\[cpu\]/jax[$extra]/" requirements-no-tf.txt \
    && grep -Fq "jax[$extra]==" requirements-no-tf.txt \
    && pip install --no-cache-dir --requirement requirements.txt

COPY configs configs
COPY simclr_jax simclr_jax

USER 1000
# The commands find the package from any working directory, and lines of the log
# leave at once.
ENV PYTHONPATH=/opt/simclr_jax PYTHONUNBUFFERED=1
# In this form the command is process 1 and hears SIGTERM.
ENTRYPOINT ["python", "-m", "simclr_jax.main"]
