"""token-broker keeps OAuth connections alive and hands out fresh Bearer tokens.

The map of the house, from the ground up; a module imports its own line and those below it, never above.

    serve cli __main__                   the processes
    demo app sockets                     app wires everything; the only place that names concrete classes
    admin                                what operators see and do, over the admin socket
    accounts                             list, rename, freeze, remove a connection
    tokens  installs                     hand out and renew a token · connect an account in the browser
    login                                who is at the browser? the company's own app answers
    callers  browser  runner  door       who is calling · the cookie of a trip · the HTTP server below · who is let in
    web  pages  keys                     errors become answers · pages people see · opening the key ring
    providers  store  sandbox  systemd   the outside: Kit, Kustomer, any OAuth server · SQLite · their stand-in
    observe                              logs, metrics, audit, health
    keyring  oauth  sealing              machinery without I/O
    model  errors  clock  config  wire   the words, which everything shares
"""

__version__ = "0.1.0"
