"""Prepares an archive on Slurm: Dask starts 32 jobs of one core, and each shard goes to the job that is free.

    python scripts/recipes/prepare_slurm.py --dataset mri --data_dir MRI --output_dir prepared

The options are those of scripts/prepare.py. Start it where jobs may be submitted, in a session that outlives your login
(tmux, or a job of its own); archive and output lie on storage that all nodes see, or are URLs such as s3://. Killed, it
resumes when it is started again. For LSF or PBS take `LSFCluster` or `PBSCluster`. `pip install "hf_radmae[cluster]"`
installs what it needs.
"""

import sys

from dask_jobqueue import SLURMCluster

from hf_radmae.cli.prepare import main

JOBS = 32
# A worker of one thread: pydicom and torch hold the interpreter's lock while they decode.
CLUSTER = {"cores": 1, "processes": 1, "memory": "6GB", "walltime": "08:00:00", "queue": None, "account": None}

if __name__ == "__main__":
    with SLURMCluster(**CLUSTER) as cluster:
        cluster.scale(JOBS)
        print(f"Dashboard: {cluster.dashboard_link}", file=sys.stderr)
        sys.argv += ["--dask_scheduler", cluster.scheduler_address]
        main()
