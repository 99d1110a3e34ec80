#!/bin/sh
# The manual: each exported function has a page, and the pages are well-formed.
top_srcdir=${top_srcdir:?}
pages=$top_srcdir/doc/man
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

echo 1..4

sed -n 's/^ *\(pycrew_[a-z0-9_]*\);.*/\1/p' "$top_srcdir/lib/pycrew.map" | sort >"$work/mapped"
for page in "$pages"/pycrew_*.3; do
    awk '/^\.Sh / { in_name = $2 == "NAME"; next } in_name && $1 == ".Nm" { print $2 }' "$page"
done | sort >"$work/named"
[ -s "$work/mapped" ] && diff "$work/mapped" "$work/named" >"$work/why"
verdict $? "each exported function is named by one page, and nothing else is"

# Functions are shown as the header declares them.
cat "$top_srcdir/lib/pycrew.h" "$top_srcdir/lib/pycrew-stubs.h" | tr '\n' ' ' | sed 's|/\*[^*]*\*/||g' | tr ';' '\n' |
    sed -n 's/.*PYCREW_API  *[^(]*[ *]\(pycrew_[a-z0-9_]*\)(\(.*\)) *$/\1 \2/p' |
    sed 's/,  */,/g; s/  */ /g' | sort >"$work/declared"
sed -n 's/^\.Fn \(pycrew_[a-z0-9_]*\) "\(.*\)"$/\1 \2/p' "$pages"/pycrew_*.3 |
    sed 's/" "/,/g' | sort >"$work/shown"
[ -s "$work/declared" ] && diff "$work/declared" "$work/shown" >"$work/why"
verdict $? "the pages show each function as its header declares it"

for page in "$pages"/*.[0-9]; do
    grep -qF "doc/man/${page##*/}" "$top_srcdir/doc/local.mk" || echo "${page##*/} is not in doc/local.mk"
done >"$work/why"
[ ! -s "$work/why" ]
verdict $? "each page is installed"

if command -v mandoc >/dev/null; then
    mandoc -T lint -W warning "$pages"/*.[0-9] >"$work/why" 2>&1
    verdict $? "mandoc has nothing to say against the pages"
else
    echo "ok 4 - mandoc has nothing to say against the pages # SKIP mandoc is not installed"
fi
