# bash completion for pycrew. Commands and options are what this pycrew's --help says.

_pycrew_commands() {
    "$1" --help 2>/dev/null | sed -n 's/^[a-z: ]*pycrew \([a-z][a-z]*\) .*/\1/p'
}

_pycrew_options() {
    "$1" "$2" --help 2>/dev/null | sed -n 's/^ \{2,6\}\(-., \)\{0,1\}\(--[a-z-]*\).*/\2/p'
}

# Without ps, which a small system lacks.
_pycrew_own_processes() {
    local folder
    for folder in /proc/[0-9]*; do
        [[ -O $folder ]] && printf '%s\n' "${folder#/proc/}"
    done
}

# MODULE: for the Python files here, and files.
_pycrew_words() {
    local file
    for file in "$1"*.py; do
        [[ -f $file && $file != */* ]] && printf '%s:\n' "${file%.py}"
    done
    compgen -f -- "$1"
}

_pycrew() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    local program=${COMP_WORDS[0]} command=${COMP_WORDS[1]}
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "$(_pycrew_commands "$program") --help --version" -- "$word")
        return
    fi
    case $before in
    -i | --input | -o | --format) mapfile -t COMPREPLY < <(compgen -W 'jsonl csv tsv lines nul' -- "$word") ;;
    --nan) mapfile -t COMPREPLY < <(compgen -W 'literal null error' -- "$word") ;;
    --halt) mapfile -t COMPREPLY < <(compgen -W 'now soon now,fail= soon,fail=' -- "$word") ;;
    --progress) mapfile -t COMPREPLY < <(compgen -W 'auto bar plain json none' -- "$word") ;;
    --int) mapfile -t COMPREPLY < <(compgen -W 'int64_t int int32_t long' -- "$word") ;;
    --path) mapfile -t COMPREPLY < <(compgen -d -- "$word") ;;
    --python | --output | --errors | --from-errors | --checkpoint | --c-header | --c-source | \
        --cpp-header | --depfile) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    --env) mapfile -t COMPREPLY < <(compgen -e -- "$word") ;;
    -j | --workers | --whole | --timeout | --grace | --retries | --memory | --max-calls | --max-rss | --nice | \
        --cpus | --preload | --init | --checkpoint-every | -k | --keyword | --prefix | --only | --crew | --interval) ;; # nothing to propose
    *)
        if [[ $word == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$(_pycrew_options "$program" "$command")" -- "$word")
        elif [[ $command == top ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$(_pycrew_own_processes)" -- "$word")
        else
            mapfile -t COMPREPLY < <(_pycrew_words "$word")
            [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *: ]] && compopt -o nospace 2>/dev/null
        fi
        ;;
    esac
}

complete -o filenames -F _pycrew pycrew
