"""The untouched network, for OpenVINO's own conversion to bf16 and for the tools that take OpenVINO IR."""

from job import Job, read_job


def main(job: Job) -> None:
    """Export the network as it was trained."""
    job.save("original", job.task.model)


if __name__ == "__main__":
    main(read_job())
