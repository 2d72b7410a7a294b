"""token-broker keeps OAuth connections alive and hands out fresh Bearer tokens.

The map of the house, from the ground up; a module imports its own line and those below it, never above.

    serve cli __main__                   the processes
    demo app sockets hardening           app wires everything; the only place that names concrete classes
    dashboard                            what operators look at in a browser
    admin                                what operators see and do, over the admin socket
    accounts  alerts                     list, rename, freeze, remove a connection · webhook, command, events, forecasts
    tokens  installs  plugin             hand out and renew a token · connect an account · Kit signs in to us
    login                                who is at the browser? the company's own app answers
    callers  browser  runner  door       who is calling · the cookie of a trip · the HTTP server below · who is let in
    web  pages  keys  audit  tls         errors become answers · pages people see · the key ring · who got what · TLS
    providers  store  sandbox  systemd   the outside: Kit, Kustomer, any OAuth server · SQLite · their stand-in
    observe                              logs, metrics, health
    keyring  oauth  sealing  forwarded   machinery without I/O
    model  errors  clock  times  config  wire   the words, which everything shares
"""

__version__ = "0.1.0"
