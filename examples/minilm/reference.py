"""Prints the embeddings of `sentences.txt` by Python's transformers, a line of numbers for each.

pip install torch==2.11.0 transformers==4.57.1 numpy
python reference.py MODEL > reference.csv

MODEL is the folder that `cargo xtask minilm` names.
"""

import pathlib
import sys

import torch
from transformers import AutoModel, AutoTokenizer

folder = sys.argv[1]
sentences = pathlib.Path(__file__).with_name("sentences.txt").read_text().splitlines()
tokenizer = AutoTokenizer.from_pretrained(folder)
batch = tokenizer(sentences, padding=True, truncation=True, max_length=128, return_tensors="pt")
with torch.no_grad():
    hidden = AutoModel.from_pretrained(folder).eval()(**batch).last_hidden_state
mask = batch["attention_mask"].unsqueeze(-1).float()
embeddings = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
for row in embeddings.tolist():
    print(",".join(f"{number:.9f}" for number in row))
