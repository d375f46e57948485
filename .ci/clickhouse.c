/* Runs the ClickHouse that libchdb carries: clickhouse LIBRARY [argument of clickhouse-local]... */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>

/* What the library calls in place of libc's. A client that is killed may reset its connection; the server proper survives that, the
   library ends itself for an exception that nobody catches. So the connection ends as if the client had closed it. */
ssize_t recv(int socket, void *buffer, size_t length, int flags) {
	static ssize_t (*libc)(int, void *, size_t, int);
	if (!libc)
		libc = (ssize_t (*)(int, void *, size_t, int))dlsym(RTLD_NEXT, "recv");
	ssize_t n = libc(socket, buffer, length, flags);
	return n < 0 && errno == ECONNRESET ? 0 : n;
}

int main(int argc, char **argv) {
	void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
	int (*run)(int, char **) = library ? (int (*)(int, char **))dlsym(library, "chdb_query_cmdline") : NULL;
	if (!run) {
		fprintf(stderr, "%s\n", argc > 1 ? dlerror() : "which library?");
		return 1;
	}
	signal(SIGPIPE, SIG_IGN); /* as the server does: a client that goes away must not end it */
	argv[1] = "clickhouse";
	return run(argc - 1, argv + 1);
}
