"""The text of --help completion: a script that completes commands in bash and zsh.

    source <(python -m experiments.main --help completion)

It completes modes, flags, configs with their variants, and fields of the config section by section.
Files are completed after the other flags.
"""

from collections.abc import Iterable

from experiments.commands.usage import configs

SCRIPT = r"""if [ -n "$ZSH_VERSION" ]; then
  whence compdef >/dev/null || { autoload -U compinit && compinit; }
  autoload -U +X bashcompinit && bashcompinit
fi
_score_sde_jax() {
  local line=${COMP_LINE:0:$COMP_POINT} candidate rest
  COMPREPLY=()
  [[ $line == *score-sde-jax* || $line == *experiments.main* ]] || return
  local word=${line##* }
  for candidate in "${_score_sde_jax_words[@]}"; do
    [[ $candidate == "$word"* ]] || continue
    if [[ $candidate == --config.* ]]; then  # up to the next dot
      rest=${candidate#"$word"}
      [[ $rest == *.* ]] && candidate=$word${rest%%.*}.
    fi
    [[ " ${COMPREPLY[*]} " == *" $candidate "* ]] || COMPREPLY+=("$candidate")
  done
  if [[ $COMP_WORDBREAKS == *=* ]]; then  # bash completes what follows the last = or :
    COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*[=:]}"}"}")
  fi
}
complete -o default -o nospace -F _score_sde_jax score-sde-jax python python3"""


def script(modes: Iterable[str], flags: Iterable[str], fields: Iterable[str]) -> str:
    """The script, with the words that it completes.

    Args:
        modes: the names of the commands.
        flags: the names of the flags.
        fields: full names of the config's fields.
    """
    words = [f"--mode={mode}" for mode in modes]
    words += [f"--{flag}=" for flag in flags if flag != "mode"]
    for module in configs.modules():
        path = f"configs/{module.__name__.rpartition('.')[2]}.py"
        words += [f"--config={path}", *(f"--config={path}:{name}" for name in module.VARIANTS)]
    words += ["--help", *(f"--config.{field}=" for field in fields)]
    return "\n".join(["_score_sde_jax_words=(", *words, f")\n{SCRIPT}"])
