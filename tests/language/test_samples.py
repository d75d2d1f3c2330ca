from types import SimpleNamespace

import torch
from tiny_model import tiny_model, tiny_tokenizer

from prunerzero.language.kinds import context_length
from prunerzero.language.samples import continuations, prompts_of

WINDOWS = torch.randint(2, 32, (5, 12), generator=torch.Generator().manual_seed(1))


def test_prompts_are_the_beginnings_of_evenly_spaced_windows():
    assert torch.equal(prompts_of(WINDOWS, 2, 3), WINDOWS[[0, 2], :3])
    assert prompts_of(WINDOWS, 9, 100).shape == (5, 6)
    assert len(prompts_of(WINDOWS, 0)) == 0


def test_a_continuation_takes_the_likeliest_token_each_time():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    prompt = WINDOWS[:1, :6]
    ids = prompt[0].tolist()
    for _ in range(5):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    found = continuations(model, tokenizer, prompt, 5)
    assert found == [tokenizer.decode(ids[6:], skip_special_tokens=True)]


def test_a_continuation_ends_where_the_context_does():
    prompts = WINDOWS[:2, :8]
    assert all(
        len(text) <= 56 for text in continuations(tiny_model(), tiny_tokenizer(), prompts, 500)
    )


def test_a_context_is_as_long_as_the_config_says_in_whatever_word():
    config = tiny_model().config
    for word in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        config.get_text_config = lambda word=word: SimpleNamespace(**{word: 20})
        assert context_length(config) == 20
