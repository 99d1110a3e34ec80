-- wrk's side: images of all digits in turn, answers looked at, quantiles as one line of JSON.
local bodies, index, wrong = {}, 0, 0

function init(arguments)
    for line in io.lines(arguments[1]) do
        bodies[#bodies + 1] = wrk.format("POST", "/predict", {["Content-Type"] = "application/json"}, line)
    end
end

function request()
    index = index % #bodies + 1
    return bodies[index]
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format('{"requests": %d, "us": %d, "status": %d, "connect": %d, "read": %d, "write": %d, '
        .. '"timeout": %d, "p50": %d, "p90": %d, "p99": %d, "p999": %d, "max": %d}\n',
        summary.requests, summary.duration, errors.status, errors.connect, errors.read, errors.write,
        errors.timeout, latency:percentile(50), latency:percentile(90), latency:percentile(99),
        latency:percentile(99.9), latency.max))
end
