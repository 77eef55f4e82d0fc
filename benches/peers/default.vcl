# Varnish. @NAMES@ are filled in.
vcl 4.1;

backend default {
    .host = "127.0.0.1";
    .port = "@ORIGIN_PORT@";
}

sub vcl_recv {
    # As parvis does with the cookies of analytics scripts.
    unset req.http.Cookie;
}

sub vcl_backend_response {
    set beresp.grace = 0s;
    if (beresp.http.Content-Type == "application/json") {
        set beresp.do_gzip = true;
    }
}

sub vcl_deliver {
    if (obj.hits > 0) {
        set resp.http.X-Cache = "HIT";
    }
    set resp.http.X-Content-Type-Options = "nosniff";
    set resp.http.X-Frame-Options = "DENY";
    set resp.http.Referrer-Policy = "strict-origin-when-cross-origin";
}
