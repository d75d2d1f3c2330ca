"""The prose of the report of ``tune`` that JSON has in English, in Japanese."""

import re
from typing import Any

from prunerzero.metrics.operators import OPERATORS, TERMINALS_JA

from .wording import change_text, percent_text, perplexity_text, sparsity_text, spoken_name

_PARTS = {
    "calibration": "calibration（統計量の計算）",
    "validation": "validation（選択）",
    "test": "test（最終確認）",
}


_WITHIN = {
    "row": "スコアは各行の中で比べます。",
    "layer": "スコアは各層の中で比べます。",
    "model": "スコアはモデル全体で比べます。",
}


def answer(result: dict[str, Any]) -> str:
    """The paragraph under the headline, composed from the same figures as the English one."""
    metric, validation, test = result["metric"], *map(result["parts"].get, ("validation", "test"))
    name = "進化で得た式" if metric["name"] == "evolved" else spoken_name(metric["name"])
    sparsity = sparsity_text(result["pattern"])
    at = f"{sparsity} パターン" if result["pattern_asked"] else f"スパース率 {sparsity} "
    sure = "ウィンドウが少なすぎるため、区間は求めていません"
    if test["rise_interval"] is not None:
        low, high = (change_text(1 + bound) for bound in test["rise_interval"])
        sure = f"95 % 信頼区間：{low} 〜 {high}"
    before, after = (perplexity_text(validation[model]) for model in ("dense", "pruned"))
    told = [
        f"採用した枝刈り指標は、{name}（{metric['formula']}）です。",
        *([] if result["pattern_asked"] else [_WITHIN[result["group"]]]),
        f"{at}では、検証用テキストのパープレキシティは {before} から {after}"
        f"（{change_text(1 + validation['rise'])}）になります。",
        f"テスト用テキストでの上昇率は {change_text(1 + test['rise'])}（{sure}）です。",
    ]
    if test["confidence"] is not None:
        share = percent_text(test["confidence"])
        told.append(f"ブートストラップ標本の {share} で許容範囲に収まります。")
    return "".join(told)


def words(tree: dict[str, Any]) -> str:
    """What a weight's score is, from the formula's tree."""
    data = tree["data"]
    if data in TERMINALS_JA:
        return TERMINALS_JA[data]
    if data not in OPERATORS:
        return f"{data:g}" if isinstance(data, float) else str(data)
    arguments = [tree[side] for side in ("left", "right") if tree.get(side) is not None]
    phrases = [words(argument) for argument in arguments]
    if len(arguments) == 2:
        phrases = [
            f"「{phrase}」" if argument.get("left") else phrase
            for phrase, argument in zip(phrases, arguments, strict=True)
        ]
    return OPERATORS[data].meaning_ja.format(*phrases)


def split(told: str) -> str:
    """How the texts were set apart; what is told otherwise than ``tune`` does stays English."""
    if told == "Each part is a text of its own.":
        return "各パートには別々のテキストを使用しています。"
    dataset = r"The parts are those of the dataset (.+), or the files named\."
    if found := re.fullmatch(dataset, told):
        return f"データセット {found[1]} の各パート、または指定されたファイルを使用しています。"
    cut = r"(.+) was cut into (\d+) consecutive blocks, taken in turns: (.+)\. .* are in (.+)\."
    if found := re.fullmatch(cut, told):
        shares = [
            f"{of} ブロックごとに {count} ブロックを {_PARTS[part]}"
            for count, of, part in re.findall(r"(\d+) of every (\d+) for (\w+)", found[3])
        ]
        return (
            f"{found[1]} を連続する {found[2]} ブロックに分け、順番に割り当てました："
            f"{'、'.join(shares)}。パート間でテキストの重複はありません。保存先：{found[4]}"
        )
    return told
