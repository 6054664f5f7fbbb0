#!/bin/sh
# What the virtual machine does, as root, under systemd: the daemon as a service if there is a package of it, then the
# tests, whose daemons run as user `profiler` with the capabilities of the service and no others. Tells all of it to the
# second serial port, ends with `result: N`, and switches the machine off.
#
# Argument: the folder with all that it needs, and a file with the arguments of the test program, one a line.
payload=$1
exec > /dev/ttyS1 2>&1
# perf lowers its rate where an interrupt takes long, which in an emulated machine all do.
sysctl -qw kernel.perf_cpu_time_max_percent=0
echo "kernel $(uname -r), perf_event_paranoid $(cat /proc/sys/kernel/perf_event_paranoid)," \
    "unprivileged_bpf_disabled $(cat /proc/sys/kernel/unprivileged_bpf_disabled)"

failed=0

step() {
    name=$1
    shift
    if "$@"; then
        echo "ok: $name"
    else
        echo "FAILED: $name ($*)"
        failed=1
    fi
}

# Programs in the kernel, but for those with which systemd filters.
loaded_programs() {
    "$payload/programs/bpf_programs" | grep -v ' sd_'
}

service_runs_as_profiler() {
    status=/proc/$(systemctl show --property=MainPID --value profiler-daemon)/status
    # CAP_DAC_READ_SEARCH, SYS_PTRACE, SYSLOG, PERFMON, BPF, CHECKPOINT_RESTORE.
    grep -q '^CapEff:	000001c400080004$' "$status" && [ "$(stat -c %U "$status")" = profiler ]
}

flame_graph_as() {
    user=$1
    # A supplementary group, as somebody has who was added to it.
    setpriv --reuid="$user" --regid="$user" --init-groups --inh-caps=-all --bounding-set=-all \
        profiler-cli flamegraph --pid "$target" --duration 10s --format folded -o - > "/tmp/$user.folded" 2> "/tmp/$user.messages"
    code=$?
    cat "/tmp/$user.messages"
    return $code
}

member_sees_stacks() {
    flame_graph_as member && grep -q 'main.*;' /tmp/member.folded
}

# Profiles are kept by the time of day, samples are taken by another clock.
member_sees_stacks_after() {
    date --set="$1" && member_sees_stacks
}

stranger_is_refused() {
    flame_graph_as stranger
    [ $? -eq 4 ] && [ ! -s /tmp/stranger.folded ]
}

# A sink that is a command, for a limit that is always broken.
tell_a_command() {
    cat > /usr/bin/told <<'END'
#!/bin/sh
{ grep CapEff /proc/self/status; echo "nice $(nice)"; cat; } > /var/lib/profiler/told.part
mv /var/lib/profiler/told.part /var/lib/profiler/told
END
    chmod 755 /usr/bin/told
    mkdir -p /etc/profiler/config.d
    cat > /etc/profiler/config.d/told.toml <<'END'
[limits.any_cpu]
reading = "host_cpu_busy_ratio"
above = "1%"
for = "0s"
sinks = ["told"]

[sinks.told]
kind = "command"
argv = ["/usr/bin/told"]
timeout = "1m"
END
}

# Within the unit's filter of system calls, and with none of what the daemon may do.
command_is_told() {
    tries=0
    until [ -s /var/lib/profiler/told ]; do
        tries=$((tries + 1))
        [ $tries -le 300 ] || return 1
        sleep 1
    done
    cat /var/lib/profiler/told
    echo
    grep -q '^CapEff:	0000000000000000$' /var/lib/profiler/told && grep -q '^nice 0$' /var/lib/profiler/told &&
        grep -q any_cpu /var/lib/profiler/told
}

paranoid() {
    cat /proc/sys/kernel/perf_event_paranoid
}

# At Debian's default the service may not sample: it stays up, and both it and the doctor say what to do.
default_level_is_named() {
    sysctl -qw kernel.perf_event_paranoid="$level"
    systemctl restart profiler-daemon.service
    profiler-cli doctor > /tmp/doctor
    code=$?
    cat /tmp/doctor
    [ $code -eq 1 ] && grep -q "perf_event_paranoid is $level, where" /tmp/doctor &&
        grep -q "set it to 2 and restart the daemon" /tmp/doctor
}

nothing_is_left() {
    # The kernel lets go of them a moment later.
    sleep 5
    [ "$(loaded_programs)" = "$before" ] && ! pgrep -x profiler-daemon
}

service() {
    before=$(loaded_programs)
    level=$(paranoid)
    tell_a_command
    # Its last step starts the service.
    step "the package installs" dpkg --install "$payload/profiler.deb"
    step "it lets the service sample" [ "$(paranoid)" -eq 2 ]
    useradd --groups profiler member
    useradd stranger
    "$payload/programs/mixed" > /dev/null &
    target=$!
    step "the service starts" systemctl start profiler-daemon.service
    step "it runs as profiler with six capabilities" service_runs_as_profiler
    step "a member of the group gets a flame graph" member_sees_stacks
    step "anybody else is refused" stranger_is_refused
    step "a command is told of an alert" command_is_told
    step "the clock is set forward" member_sees_stacks_after "+2 hours"
    step "and back" member_sees_stacks_after "-2 hours"
    profiler-cli status
    [ "$level" -le 2 ] || step "a level that refuses it is named" default_level_is_named
    step "the service stops" systemctl stop profiler-daemon.service profiler-daemon.socket
    step "it leaves nothing in the kernel" nothing_is_left
    [ $failed -eq 0 ] || journalctl --no-pager --unit=profiler-daemon.service
    kill $target
}

if [ -e "$payload/profiler.deb" ]; then
    service
else
    # As a package would.
    sysctl -qw kernel.perf_event_paranoid=2
    useradd --system profiler
    echo "not run: the service: no package was given"
fi

export PROFILER_DAEMON_BIN="$payload/profiler-daemon" PROFILER_CLI_BIN="$payload/profiler-cli"
export PROFILER_TEST_PROGRAMS="$payload/programs" PROFILER_TEST_USER=profiler
# Emulated, and perhaps on a busy host, a second is short.
export PROFILER_TEST_PATIENCE=10
# As the packaged unit has it: callers who mean harm open thousands of connections.
ulimit -n 65536
# At once what failed, and not at the end: the machine may be switched off before.
set -- --test-threads=1 --nocapture
while read -r argument; do
    set -- "$@" "$argument"
done < "$payload/arguments"
step "tests of the kernel ring" "$payload/kernel" "$@"

echo "result: $failed"
sync
systemctl --no-block start poweroff.target
