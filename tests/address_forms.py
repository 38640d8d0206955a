"""Every spelling of an address that a stranger may try, as the text of a URL, for tests.

The forms are written out by hand, so that no constant of the code is tested against itself.
"""

from __future__ import annotations

# What names resolve to; a name that is not here has a public address.
ADDRESSES = {
    "localhost": ["127.0.0.1", "::1"],
    "127-0-0-1.example": ["127.0.0.1"],
    "metadata.example": ["169.254.169.254"],
    "mixed.example": ["93.184.216.34", "10.0.0.1"],
    "mixed6.example": ["2606:4700::1111", "fe80::1"],
    "scoped.example": ["fe80::1%2"],
    "mapped.example": ["::ffff:192.168.0.1"],
    "translated.example": ["64:ff9b::a9fe:a9fe"],
}

# Hosts in the place of HOST in http://HOST/a.jpg, all of them addresses that are not public.
BLOCKED_HOSTS = """
    0 0.0.0.0 00 0x0 0X00000000 0.0 000.000.000.000 1 255
    127.0.0.1 127.1 127.0.1 127.0.0.1. 127.1. 127.0.0.01 127.00.00.01 127.65535 127.0.65535
    0177.0.0.1 0177.1 00000000177.0.0.1 0177.00.00.01 017700000001 0177.0x0.0.1 0177.0.0.0x1
    0x7f.0.0.1 0x7f.1 0x7F.0X0.0x0.0x1 0x7f000001 0x7F000001 0x007f.1 0x7f.0.0.1. 0x7f.00000.1
    0x0000000000007f.1 2130706433 2130706433. 2130706434 127.0x1 127.0.0x1 127.0.01 127.0x000001
    10.1 10.0.1 10.0x1 012.0.0.1 0xa.1 0xa000001 167772161 10.16777215 01200000001
    172.16.1 172.1048577 0xac.0x10.1 0xac100001 2886729729 0254.020.0.1 192.168.1 192.11010049
    0xc0.0xa8.1 0xc0a80001 3232235521 0300.0250.0.1 030052000001 192.0xa80001
    169.254.169.254 169.254.43518 169.16689662 0xa9fea9fe 0xA9.0xFE.0xA9.0xFE 2852039166
    0251.0376.0251.0376 025177524776 0xa9.254.0251.254 169.254.0xa9fe 0xa9.0xfea9fe
    100.64.1 100.100.100.200 1684301000 0x646464c8 168.63.129.16 2822734096 0xa83f8110
    192.0.0.192 192.88.99.1 198.18.1 198.51.100.1 203.0.113.1 0xcb007101 224.0.0.1 224.1 239.1
    240.0.0.1 255.255.255.255 4294967295 0xffffffff 037777777777 255.16777215 3758096385
    １２７.０.０.１ １２７．０．０．１ 127。0。0。1 127｡0｡0｡1 １２７。１ ０ｘ７ｆ.1 ２１３０７０６４３３ 0x7f。1
    ①②⑦.⓪.⓪.① ①②⑦.1 𝟏𝟐𝟕.𝟎.𝟎.𝟏 𝟭𝟮𝟳.1 𝟘 ¹²⁷.0.0.1 ₁₂₇.0.0.1 ⑩.1 ⑯⑨.254.169.254 １６９。２５４。１６９。２５４
    [::] [::0] [0::] [0:0:0:0:0:0:0:0] [::1] [0::1] [::0:1] [0:0:0:0:0:0:0:1] [::0.0.0.1]
    [0000:0000:0000:0000:0000:0000:0000:0001] [::01] [::127.0.0.1] [::7f00:1] [::10.0.0.1]
    [::ffff:127.0.0.1] [::FFFF:127.0.0.1] [::ffff:7f00:1] [::ffff:7F00:0001] [::ffff:0:1]
    [0:0:0:0:0:ffff:127.0.0.1] [0::ffff:7f00:1] [::ffff:10.0.0.1] [::ffff:a9fe:a9fe]
    [::ffff:169.254.169.254] [::ffff:c0a8:1] [::ffff:ac10:1] [::ffff:6440:1] [::ffff:0.0.0.0]
    [::ffff:0:127.0.0.1] [::ffff:0:7f00:1] [::ffff:0:169.254.169.254] [::ffff:0:8.8.8.8]
    [64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:FF9B::A9FE:A9FE] [64:ff9b:0:0:0:0:10.0.0.1]
    [64:ff9b:1::127.0.0.1] [64:ff9b:1::8.8.8.8] [64:ff9b:1:7f00:0:100::] [64:ff9b:1:7f:0:1::]
    [64:ff9b:1:0:7f:0:100:0] [64:ff9b:1:a9fe:a9:fe00::] [64:ff9b:1:a9:fe:a9fe::]
    [64:ff9b:1:0:a9:fea9:fe00:0] [64:ff9b:1:ffff::1] [100::1] [100:0:0:1::1]
    [2001::1] [2001:0:7f00:1::] [2001:0:808:808:0:0:80ff:fffe] [2001:0:808:808::f7f7:f7f7]
    [2001:2::1] [2001:10::1] [2001:20::1] [2001:db8::1] [2001:DB8:0:0:0:0:0:1]
    [2002:7f00:1::] [2002:7f00:0001::1] [2002:a9fe:a9fe::1] [2002:c0a8:1::1] [2002:808:808::1]
    [2a00:1450:4001::5efe:7f00:1] [2a00:1450:4001::5efe:127.0.0.1]
    [2a00:1450:4001::200:5efe:10.0.0.1] [3fff::1] [5f00::1] [4000::1]
    [fc00::1] [fd00::1] [fd00:ec2::254] [FD00:EC2:0:0:0:0:0:254] [fd20:ce::254] [fd00:42::42]
    [fd00:c1::a9fe:a9fe] [fd00:a9fe:a9fe::1] [fe80::1] [FE80::A9FE:A9FE] [febf::1] [fec0::1]
    [ff02::1] [FF0E::1] [ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]
""".split()  # noqa: SIM905  # a table of hosts reads best as text

BLOCKED_URLS = [
    *("http://127.0.0.1", "HTTP://127.0.0.1/", "hTTpS://[::1]/", "http://127.0.0.1:80/"),
    *("http://127.0.0.1:/", "http://127.0.0.1:00080/", "https://127.0.0.1:443/", " http://127.1 "),
    *("http://127.0.0.1?", "http://127.0.0.1#", "http://127.0.0.1?a@shop.example/"),
    *("http://127.0.0.1#@shop.example/", "http://127.0.0.1/@shop.example", "http://[::1]#/a"),
    *("http://shop.example@127.0.0.1/", "http://shop.example:80@127.0.0.1/", "http://@127.0.0.1/"),
    *("http://:@127.0.0.1/", "http://a@b@127.0.0.1/", "http://shop.example%2f@127.0.0.1/"),
    *("http://shop.example%23@[::1]/", "http://%31@127.0.0.1/", "http://8.8.8.8@10.0.0.1/"),
    *("http://[2606:4700::1111]@127.0.0.1/", "http://[@127.0.0.1/"),
    *("http://127.0.0.1\u00ad/", "http://127.0.\u200b0.1/", "http://\u2060127.0.0.1/"),
    *("http://localhost/", "http://LOCALHOST./", "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", "http://loc\u00adalhost/"),
    *("http://127-0-0-1.example/", "http://metadata.example/latest/", "http://mixed.example/"),
    *("https://mixed6.example/", "http://scoped.example/", "http://mapped.example/"),
    *("http://translated.example/", "http://METADATA。example/"),
    *("http://8.8.8.8:22/", "http://shop.example:6379/", "https://shop.example:8443/"),
    *("http://shop.example:65535/", "http://shop.example:1/", "http://[2606:4700::1111]:25/"),
]

INVALID_URLS = [
    *(
        "http://8.8.8.8 @127.0.0.1/",
        "http://me:my secret@shop.example/a",
        "http://a\u00a0b@shop.example/",
    ),
    *("http://me\u3000:a@shop.example/", "http:// @shop.example/", "http://a\u2028b@shop.example/"),
    *("http://", "http:///", "http:///127.0.0.1/", "http:127.0.0.1", "http:/127.0.0.1/"),
    *("//127.0.0.1/", "127.0.0.1", "http:\\\\127.0.0.1\\", "http:/\\127.0.0.1/", "http//127.0.0.1"),
    *("ftp://127.0.0.1/", "file://127.0.0.1/etc/passwd", "gopher://127.0.0.1/", "dict://127.0.0.1"),
    *("http://127.0.0.1\\@shop.example/", "http://shop.example\\@127.0.0.1/", "http://127.1\\a"),
    *("http://127.0.0.1 .shop.example/", "http://127.0.0.1%20.example/", "http://127.0.0.1\u3000/"),
    *("http://127.0.0.1%00.shop.example/", "http://127.0.0.1%2f.shop.example/", "http://%31/"),
    *("http://%31%32%37.0.0.1/", "http://127%2e0.0.1/", "http://localhos%74/", "http://%5b::1%5d/"),
    *("http://[%3a:1]/", "http://[::1%25lo]/", "http://[::1%lo]/", "http://[fe80::1%25eth0]/"),
    *("http://127.0.0.1../", "http://.127.0.0.1/", "http://127..1/", "http://./", "http://../"),
    *("http://127.0.0.0.1/", "http://256.0.0.1/", "http://127.0.0.256/", "http://0400.0.0.1/"),
    *("http://4294967296/", "http://0x100000000/", "http://040000000000/", "http://127.16777216/"),
    *(
        "http://0x/",
        "http://0x.0x/",
        "http://127.0.0.0x/",
        "http://08.0.0.1/",
        "http://127.0.0.09/",
    ),
    *("http://shop.127/", "http://shop.0x7f/", "http://127.0.0.1.1./"),
    *("http://١٢٧.0.0.1/", "http://१२७.0.0.1/", "http://⑴27.0.0.1/", "http://⒈.example/"),
    *(
        "http://::1/",
        "http://[::1/",
        "http://::1]/",
        "http://[[::1]]/",
        "http://[]/",
        "http://[:]/",
    ),
    *("http://[::1]shop.example/", "http://shop.example[::1]/", "http://[①::1]/", "http://[1:2]/"),
    *("http://[127.0.0.1]/", "http://[0x7f000001]/", "http://[v1.1]/", "http://[::127.1]/"),
    *("http://[::1]:x/", "http://[::0177.0.0.1]/", "http://[::ffff:256.0.0.1]/", "http://[:::1]/"),
    *("http://127.0.0.1:0/", "http://127.0.0.1:65536/", "http://127.0.0.1:000080/"),
    *("http://127.0.0.1:-1/", "http://127.0.0.1:+80/", "http://127.0.0.1: 80/"),
    *("http://127.0.0.1:80 /", "http://127.0.0.1:8０/", "http://127.0.0.1:0x50/"),
    *(
        "http://127.0.0.1:80:80/",
        "http://127.0.0.1:80@/",
        "http://:80/",
        "http://@/",
        "http://a@:80",
    ),
    *("http://127.0.0.1\t/", "http://127.0.\n0.1/", "h\rttp://127.0.0.1/", "http://127.0.0.1\x00/"),
    *(
        "\x01http://127.0.0.1/",
        "http://127.0.0.1/\x1b[2J",
        "http://127.0.0.1\x7f/",
        "http:\t//127.1",
    ),
    *("http://127.0.0.1,shop.example/", "http://127.0.0.1;a/", "http://127.0.0.1&a/"),
    *("http://127.0.0.1*/", "http://<127.0.0.1>/", 'http://"127.0.0.1"/', "http://127.0.0.1℀/"),
    *("http://127.0.0.1\u2044a/", "http://127.0.0.1\uff0fa/", "http://127.0.0.1\uff03a/"),
    *(
        "http://127.0.0.1\uff1a80/",
        "http://shop.example\uff20127.0.0.1/",
        "http://\uff3b::1\uff3d/",
    ),
]

ORDINARY_URLS = [
    *("http://shop.example/a.jpg", "https://shop.example/a.jpg", "https://shop.example"),
    *("HTTPS://SHOP.EXAMPLE/A.JPG", "https://shop.example./a.jpg", "https://shop.example:443/a"),
    *("http://shop.example:80/a", "http://shop.example:443/a", "https://shop.example:80/a"),
    *(
        "https://shop.example:/a",
        "https://shop.example?a=b",
        "https://shop.example/#a",
        " http://a.b",
    ),
    *("https://cdn.shop.example/i/1/2/3.png?w=100&h=200", "https://a-b.shop.example/a"),
    *("https://my_bucket.s3.example/a", "https://1.shop.example/a", "https://3com.example/a"),
    *("https://0x7f.shop.example/a", "https://127.0.0.1.shop.example/a", "https://1e3.example/a"),
    *("https://10.shop.example/", "https://localhost.shop.example/", "https://x--y.example/"),
    *("https://xn--mnchen-3ya.example/", "https://münchen.example/", "https://BÜCHER.example/"),
    *(
        "https://日本語.example/",
        "https://例え。テスト/",
        "https://пример.испытание/",
        "https://faß.example/",
    ),
    *(
        "https://مثال.إختبار/",
        "https://παράδειγμα.example/",
        "https://उदाहरण.example/",
        "https://ｓｈｏｐ.example/",
    ),
    *(
        "https://user:secret@shop.example/",
        "https://shop.example/@127.0.0.1/",
        "https://u@shop.example",
    ),
    *("https://shop.example/?u=http://127.0.0.1/", "https://shop.example/http://127.0.0.1/"),
    *(
        "https://shop.example/#@127.0.0.1",
        "https://127.0.0.1@shop.example/",
        "https://[::1]@shop.example/",
    ),
    *(
        "https://shop.example/a b,c;d'e(f).jpg",
        "https://shop.example/100%.jpg",
        "https://shop.example//a",
    ),
    *(
        "https://shop.example/../../etc/passwd",
        "https://shop.example/a\\b.jpg",
        "https://shop.example/ü",
    ),
    *(
        "http://8.8.8.8/",
        "http://8.8.8.8./",
        "http://010.8.8.8/",
        "http://0x08.8.8.8/",
        "http://134744072/",
    ),
    *("http://0x08080808/", "http://8.526344/", "http://８.８.８.８/", "http://93.184.216.34/"),
    *("http://1.1/", "http://126.255.255.255/", "http://128.0.0.1/", "http://172.32.0.1/"),
    *(
        "http://100.63.255.255/",
        "http://192.31.196.1/",
        "http://192.167.1.1/",
        "http://223.255.255.255/",
    ),
    *(
        "http://[2606:4700::1111]/",
        "https://[2606:4700:0:0:0:0:0:1111]:443/",
        "http://[2A00:1450::1]/",
    ),
    *("http://[2001:4860:4860::8888]/", "http://[2620:4f:8000::1]/", "http://[2001:200::1]/"),
    *("http://[::ffff:8.8.8.8]/", "http://[::ffff:808:808]/", "http://[64:ff9b::8.8.8.8]/"),
]
