"""The paper's study as one run that may end at any point: probes beside networks trained on the same labels."""

from hf_radmae.study.arguments import StudyArguments
from hf_radmae.study.report import terminal_text, write_report
from hf_radmae.study.run import Study
from hf_radmae.study.steps import Steps

__all__ = ["Steps", "Study", "StudyArguments", "terminal_text", "write_report"]
