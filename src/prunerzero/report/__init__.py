"""Tables, pictures and the model card, made from results alone.

Everything here reads plain dictionaries as they come from JSON, so a report can be written again
from a finished run without the model, without torch and without the rest of this package.
"""

from .bench_page import write_bench_report
from .bench_words import answer as bench_answer
from .bench_words import gpu_text
from .comparison import comparison
from .model_card import model_card, packed_card, tell_speed
from .run_page import write_run_report
from .tables import bench_tables, cases_table, perplexity_table, texts_table
from .tune_page import write_tune_report

__all__ = [
    "bench_answer",
    "bench_tables",
    "cases_table",
    "comparison",
    "gpu_text",
    "model_card",
    "packed_card",
    "perplexity_table",
    "tell_speed",
    "texts_table",
    "write_bench_report",
    "write_run_report",
    "write_tune_report",
]
