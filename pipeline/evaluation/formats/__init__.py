"""Transcripts in and out: SegLST, STM, RTTM, TextGrid, Kaldi, raw model output; SRT, VTT, TSV and JSON besides."""

from pipeline.evaluation.formats.read import KINDS as READABLE
from pipeline.evaluation.formats.read import detect, read
from pipeline.evaluation.formats.write import KINDS as WRITABLE
from pipeline.evaluation.formats.write import dumps, write

__all__ = ["READABLE", "WRITABLE", "detect", "dumps", "read", "write"]
