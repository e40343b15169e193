// Accesses that may fault, from C.
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>

#include "stress.h"

const void* volatile fault_address;
static sigjmp_buf back;

static void on_fault(int number, siginfo_t* info, void* context) {
  (void)number;
  (void)context;
  fault_address = info->si_addr;
  siglongjmp(back, 1);
}

void catch_faults(void) {
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGSEGV, &action, NULL);
  sigaction(SIGBUS, &action, NULL);
}

bool faults_on_read(const volatile u8* at, u8* value) {
  if (sigsetjmp(back, 0) != 0) return true;
  *value = *at;
  return false;
}

bool faults_on_write(volatile u8* at, u8 value) {
  if (sigsetjmp(back, 0) != 0) return true;
  *at = value;
  return false;
}
