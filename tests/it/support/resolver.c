/*
 * Stands in for the machine's resolver in a program that is started with LD_PRELOAD: every name has the address that the
 * file named by RESOLVER holds. While the file holds the word "silent", a question is lost: it fails after ten seconds,
 * as with the C library's own two attempts of five.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int resolve(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    char address[64] = "";
    FILE *file = fopen(getenv("RESOLVER"), "r");

    (void)node;
    if (file != NULL) {
        if (fgets(address, sizeof address, file) == NULL)
            address[0] = 0;
        fclose(file);
    }
    if (strcmp(address, "silent") == 0) {
        sleep(10);
        return EAI_AGAIN;
    }
    return ((resolve *)dlsym(RTLD_NEXT, "getaddrinfo"))(address, service, hints, found);
}
