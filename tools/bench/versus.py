"""What comparisons with other programs share: how those are run."""
import json
import os
import pathlib
import subprocess
import sys


def torch_environment(kind):
    environment = dict(os.environ)
    if kind == "default":
        return environment
    with open("/proc/cpuinfo") as file:
        if " avx512f " in file.read():
            environment["ATEN_CPU_CAPABILITY"] = "avx512"
            environment.setdefault("OPENBLAS_CORETYPE", "SkylakeX")  # OpenBLAS 0.3.21 knows few models
    environment.update(MALLOC_MMAP_THRESHOLD_="4294967296", MALLOC_TRIM_THRESHOLD_="17179869184",
                       MALLOC_TOP_PAD_="268435456", GLIBC_TUNABLES="glibc.malloc.hugetlb=1")
    found = sorted(pathlib.Path("/usr/lib").glob("*/openblas-openmp"))
    if found:
        paths = [str(found[0])] + [p for p in [environment.get("LD_LIBRARY_PATH")] if p]
        environment["LD_LIBRARY_PATH"] = ":".join(paths)
    return environment


def run(command, environment=None):
    """The JSON that a program prints."""
    name = pathlib.Path(sys.argv[0]).name
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    except OSError as error:
        sys.exit(f"{name}: {command[0]} cannot be run: {error.strerror}")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        sys.exit(f"{name}: {' '.join(command)} ended with status {done.returncode}: {last}")
    try:
        return json.loads(done.stdout)
    except ValueError:
        sys.exit(f"{name}: {' '.join(command)} printed no JSON")
