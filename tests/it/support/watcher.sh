# Waits for the end of the process at the other end of standard input, then leaves nothing of it:
# kills what works under the directory $1, stopped or not, and removes that, and the shared memory of killed postmasters.
root=$1
trap '' INT TERM HUP QUIT
printf .
exec >/dev/null
cat
rounds=0
alive=yes
while [ "$alive" ] && [ "$rounds" -lt 100 ]; do
    alive=
    for process in /proc/[0-9]*; do
        case $(readlink "$process/cwd" 2>/dev/null) in
        "$root"/* | "$root")
            # A zombie has no working directory: what is seen here lives.
            kill -KILL "${process#/proc/}" 2>/dev/null
            alive=yes
            ;;
        esac
    done
    rounds=$((rounds + 1))
done
for file in "$root"/*/data/postmaster.pid; do
    # The seventh line has the key and the number of the segment.
    number=$(sed -n '7s/.* //p' "$file" 2>/dev/null)
    if [ "$number" ]; then
        ipcrm -m "$number" 2>/dev/null
    fi
done
rm -rf "$root"
