#!/usr/bin/env bash
# Completion of the command, in bash; zsh's is looked at where there is a zsh.
top_srcdir=${top_srcdir:?}
top_builddir=${top_builddir:?}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
count=0

verdict() # verdict STATUS NAME: the file "$work/why" says why not
{
    count=$((count + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $count - $2"
    else
        echo "not ok $count - $2"
        sed 's/^/# /' "$work/why"
    fi
}

propose() # propose WORD...: what is proposed for the last
{
    COMP_WORDS=("$top_builddir/cli/pycrew" "$@")
    COMP_CWORD=$#
    _pycrew
    [ ${#COMPREPLY[@]} -eq 0 ] || printf '%s\n' "${COMPREPLY[@]}"
}

is() # is EXPECTED WORD...: exactly these are proposed
{
    local expected=$1
    shift
    propose "$@" | sort | tr '\n' ' ' >"$work/got"
    [ "$(cat "$work/got")" = "$expected" ] || echo "$*: $(cat "$work/got"), not $expected" >>"$work/why"
}

all() # all NAME: of what was looked at since the last
{
    [ ! -s "$work/why" ]
    verdict $? "$1"
    : >"$work/why"
}

echo 1..6
: >"$work/why"

bash -n "$top_srcdir/completion/pycrew.bash" 2>"$work/why"
verdict $? "bash can read it"
. "$top_srcdir/completion/pycrew.bash"
mkdir "$work/here" && cd "$work/here" && touch ops.py rows.csv && mkdir folder || exit 1

propose '' >"$work/got"
for command in call map top doctor stubs --help --version; do
    grep -qxe "$command" "$work/got" || echo "$command is not proposed" >>"$work/why"
done
is 'map ' ma
all "commands are proposed"

for command in call map top doctor stubs; do
    "$top_builddir/cli/pycrew" "$command" --help | grep -o '^  [^ ]* *--[a-z-]*' | grep -o -e '--[a-z-]*$' | sort >"$work/options"
    propose "$command" -- | sort >"$work/got"
    [ "$(wc -l <"$work/options")" -gt 6 ] && diff "$work/options" "$work/got" >>"$work/why" || echo "$command" >>"$work/why"
done
is '--checkpoint --checkpoint-every ' map --check
all "all options of a command are proposed, and no others"

is 'csv ' map -i c
is 'error literal null ' map --nan ''
is 'now now,fail= soon soon,fail= ' map --halt ''
is 'folder ' map --path ''
is 'rows.csv ' map --output r
is '' map -j ''
is "$$ " top $$
all "what an option takes is proposed"

is 'ops.py ops: ' map ops
is 'rows.csv ' map ops:f r
all "modules and files are proposed"

if command -v zsh >/dev/null; then
    zsh -n "$top_srcdir/completion/_pycrew" 2>"$work/why"
    verdict $? "zsh can read it"
else
    echo "ok 6 - zsh can read it # SKIP zsh is not installed"
fi
