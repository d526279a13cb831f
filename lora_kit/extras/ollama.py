"""The Modelfile that Ollama builds a model from: weights, the format of the prompts, the system text."""

from __future__ import annotations

LLAMA2 = """{{- range $i, $_ := .Messages }}
{{- if eq .Role "user" }}{{ if gt $i 1 }}<s>{{ end }}[INST] {{ if and (le $i 1) $.System }}<<SYS>>
{{ $.System }}
<</SYS>>

{{ end }}{{ .Content }} [/INST]{{ else if eq .Role "assistant" }} {{ .Content }} </s>{{ end }}
{{- end }}"""
ZEPHYR = """{{- range .Messages }}<|{{ .Role }}|>
{{ .Content }}</s>
{{ end }}<|assistant|>
"""


def modelfile(weights: str, *, llama2: bool, system: str | None, context: int) -> str:
    """A Modelfile for `ollama create NAME -f Modelfile` (add `-q q4_K_M` to quantize on import).

    Args:
        weights: the GGUF file, beside the Modelfile.
        llama2: the prompts are Llama 2's; else Zephyr's, as TinyLlama's are.
        system: what every training row began with.
        context: the longest conversation in tokens.
    """
    lines = [f"FROM ./{weights}", f'TEMPLATE """{LLAMA2 if llama2 else ZEPHYR}"""']
    if system:
        lines.append('SYSTEM """' + system.replace('"""', "'''") + '"""')
    lines += [f"PARAMETER num_ctx {context}", "PARAMETER temperature 0", 'PARAMETER stop "</s>"']
    if llama2:
        lines.append('PARAMETER stop "[INST]"')
    return "\n".join([*lines, ""])
