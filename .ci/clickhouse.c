/* Runs the ClickHouse that libchdb carries: clickhouse LIBRARY [argument of clickhouse-local]... */
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>

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
